"""What Envoy bounds by itself, for uvicorn: connections, the size of a head, a request's time."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from coalmine.clock import SYSTEM_CLOCK
from coalmine.serving._asgi import REQUEST

__all__ = ["LimitedConfig", "LimitedProtocol", "sweep"]

#: Envoy's own bounds.
_HEAD_BYTES = 60 * 1024
_HEADERS = 100
_HEAD_SECONDS = 10.0
_SWEEPS = 4
#: Of a body that are held before the application is asked whether it takes more.
_BODY_BYTES = 1024**2
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


class Checked(Protocol):
    """A connection that is looked at every now and then."""

    def check(self, now: float) -> None:
        """Close it, or refuse its request, if that takes too long."""


class LimitedConfig(uvicorn.Config):
    """uvicorn's settings, with ours."""

    def __init__(
        self,
        app: Any,
        *,
        max_connections: int,
        receive_timeout: float,
        protocol: type[asyncio.BaseProtocol] | None = None,
        **settings: Any,
    ) -> None:
        http = cast(type[asyncio.Protocol], protocol or LimitedProtocol)
        super().__init__(app, http=http, **settings)
        self.max_connections = max_connections
        self.receive_timeout = receive_timeout


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 for clients that may be slow, large, or many."""

    _in_head = False
    _head = 0
    _seen = 0
    _waiting: tuple[bool, object] | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close at once if there are too many."""
        config = cast(LimitedConfig, self.config)
        full = len(self.connections) >= config.max_connections
        super().connection_made(transport)
        if full:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """What the client asked for and has not got yet, nobody waits for any more."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            request: Any = cast(Any, cycle.scope).get(REQUEST)
            if request is not None:
                request.abandon()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what has come of a head that is not complete."""
        if (self.cycle is None or not self.cycle.more_body) and _offers_upgrade(data):
            data = _without_upgrade(data)
        self._seen = len(data)
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > _HEAD_BYTES:
                self._refuse(431)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large although it came in one piece."""
        if self._head_fits():
            self._in_head = False
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Let the body gather: uvicorn wakes the application, and stops reading, every 64 KB."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:  # a refused request has a body too
            return
        cycle.body += body
        if len(cycle.body) > _BODY_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A refused request ends too."""
        if self.cycle is not None:
            super().on_message_complete()

    def check(self, now: float) -> None:
        """Close if the client has been sending one request for too long."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            waiting = (True, cycle) if cycle.more_body else None
        else:  # an idle connection has a timer; one without sends a head, or has never sent any
            waiting = (False, cycle) if self.timeout_keep_alive_task is None else None
        before, self._waiting = self._waiting, waiting
        if waiting is None or before is None or waiting[0] != before[0] or cycle is not before[1]:
            self._since = now
            return
        limit = cast(LimitedConfig, self.config).receive_timeout
        if not waiting[0]:
            limit = min(limit, _HEAD_SECONDS)
        if now - self._since > limit:
            self._refuse(408)

    def _head_fits(self) -> bool:
        """Whether the head is no larger than it may be; refused if not."""
        if self._head + self._seen > _HEAD_BYTES:  # else there was not so much
            size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        else:
            size = 0
        if size > _HEAD_BYTES or len(self.headers) > _HEADERS:
            self._refuse(431)
            return False
        return True

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        if self._in_head or (self.cycle is not None and not self.cycle.response_started):
            end = b"content-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + end)
        self.transport.close()


def _offers_upgrade(data: bytes) -> bool:
    """Whether the head that the data begin with may offer to change protocols."""
    end = data.find(b"\r\n\r\n", 0, _HEAD_BYTES)
    return data.find(b"pgrade", 0, _HEAD_BYTES if end < 0 else end) >= 0


def _without_upgrade(data: bytes) -> bytes:
    """The data without the offer to change protocols, in the head that it begins with.

    Some clients (Java's, curl's) offer HTTP/2 with every request. A server is free to pass over
    that, but uvicorn's parser takes the body for the other protocol's, and loses it.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest


async def sweep(config: LimitedConfig, state: ServerState) -> None:
    """Check all connections every now and then; never returns. It costs a request nothing."""
    while True:
        await asyncio.sleep(min(1.0, config.receive_timeout / _SWEEPS))
        now = SYSTEM_CLOCK.monotonic()
        for connection in list(cast(set[Checked], state.connections)):
            connection.check(now)
