"""What Envoy bounds by itself, for uvicorn: connections, the size of a head, a request's time."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn, Protocol, cast

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from coalmine.clock import SYSTEM_CLOCK
from coalmine.serving._asgi import REQUEST

__all__ = ["CLOSE", "LimitedConfig", "LimitedProtocol", "sweep"]

#: The header that ends a connection after an answer.
CLOSE = (b"connection", b"close")
#: Envoy's own bounds.
_HEAD_BYTES = 60 * 1024
_HEADERS = 100
_HEAD_SECONDS = 10.0
_SWEEPS = 4
#: Of a body that are held before the application is asked whether it takes more.
_BODY_BYTES = 1024**2


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

    _in_head = _ending = False
    #: Whether another request has ended in what came last.
    _follows = False
    _offered = b""
    _head = 0
    #: Of what came last, the bytes that a head may have.
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
        """As uvicorn; the head's size is counted, and an offer to change protocols passed over."""
        if self._ending:
            return
        self._seen = len(data)
        self._follows = False
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as offer:
                again, self._offered = self._offered, b""
                if again:  # the parser takes this for the end of what it reads
                    self.begin_parsing()
                data = again + data[offer.args[0] :]
            except httptools.HttpParserError:
                self._refuse(400, "what came is not HTTP/1.1")
                return
        if self._in_head:
            self._head += self._seen
            if self._head > _HEAD_BYTES:
                self._refuse(431, "the head is too large")

    def begin_parsing(self) -> None:
        """Parse what comes as the beginning of a request."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._begin_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Space around a value is none of it; the parser leaves what follows it."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large although it came in one piece."""
        if self._takes_head():
            self._in_head = False
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """What comes of a body belongs to no head."""
        self._seen -= len(body)
        self.take(body)

    def take(self, body: bytes) -> None:
        """Let the body gather: uvicorn wakes the application, and stops reading, every 64 KB."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:  # a refused request has a body too
            return
        if not cycle.body:
            cycle.body = body
        else:
            if isinstance(cycle.body, bytes):  # to which many small pieces are added in no time
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        if len(cycle.body) > _BODY_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A refused request ends too."""
        self._follows = True
        if self.cycle is not None and not self._offered:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Close, if what followed the request is nothing that can be answered."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self._ending and is_last:
            self.transport.close()

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
            self._refuse(408, "the request did not arrive in time")

    def _takes_head(self) -> bool:
        """Whether to answer the head that is there.

        It is refused if it is too large or does not name one host (RFC 9112, 3.2), and put off if
        it comes again: some clients (Java's, curl's) offer HTTP/2 with every request. A server is
        free to pass over that, but the parser takes the body for the other protocol's: it is given
        the head once more without the offer.
        """
        # Else there was not so much.
        size = self._head_size() if self._head + self._seen > _HEAD_BYTES else 0
        if size > _HEAD_BYTES or len(self.headers) > _HEADERS:
            self._refuse_head(431, "the head is too large")
        hosts = 0
        for name, _ in self.headers:
            if name == b"host":
                hosts += 1
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            self._refuse_head(400, f"a request names its host once, this one {hosts} times")
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            version = self.parser.get_http_version().encode()
            lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
            lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
            self._offered = b"\r\n".join([*lines, b"", b""])
            return False
        return True

    def _begin_head(self) -> None:
        if self._follows:  # the head of that request was there too
            self._seen = max(0, self._seen - self._head_size())
        self._in_head, self._head = True, 0

    def _head_size(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url)

    def _refuse_head(self, status: int, why: str) -> NoReturn:
        """Refuse, and stop the parser: what it told next would be taken for another request."""
        self._refuse(status, why)
        raise httptools.HttpParserError

    def _refuse(self, status: int, why: str) -> None:
        """Answer what has begun to come with an error, and close."""
        if self._ending or self.transport.is_closing():
            return
        cycle = self.cycle
        is_body = not self._in_head and cycle is not None and cycle.more_body
        if self.pipeline or not (is_body or cycle is None or cycle.response_complete):
            # Another request waits for its answer, and would take this one for it.
            self._ending = True
            if self.pipeline and is_body:
                self.pipeline.popleft()
            self.flow.pause_reading()
            return
        if not is_body or not cycle.response_started:
            body = orjson.dumps({"error": why})
            size = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            kind = b"content-type: application/json\r\n"
            self.transport.write(b"".join((STATUS_LINE[status], kind, size, body)))
        self.transport.close()


async def sweep(config: LimitedConfig, state: ServerState) -> None:
    """Check all connections every now and then; never returns. It costs a request nothing."""
    while True:
        await asyncio.sleep(min(1.0, config.receive_timeout / _SWEEPS))
        now = SYSTEM_CLOCK.monotonic()
        for connection in list(cast(set[Checked], state.connections)):
            connection.check(now)
