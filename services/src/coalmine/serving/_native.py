"""Our own server: HTTP/1.1, HTTP/2 and gRPC on one port, each told by its first bytes.

One thread and one event loop: a request is read, answered and written without a hand-over. HTTP/1.1
is uvicorn's protocol (`_uvicorn_limits`), HTTP/2 is `http2`. Clients of HTTP/2 are those
that know it beforehand, as all of gRPC are.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.server import ServerState

from coalmine.clock import SYSTEM_CLOCK
from coalmine.serving._app import ServingApp
from coalmine.serving._grpc import INFER
from coalmine.serving._grpc_door import InferCall
from coalmine.serving._http1_direct import DirectProtocol
from coalmine.serving._options import ServeOptions
from coalmine.serving._uvicorn_limits import LimitedConfig, LimitedProtocol
from coalmine.serving.http2 import PREFACE, AsgiSink, Connection, Endpoint, Sink, Stream

__all__ = ["NativeConfig"]

_HEAD_SECONDS = 10.0


class NativeConfig(LimitedConfig):
    """uvicorn's settings, with HTTP/2 beside HTTP/1.1."""

    def __init__(self, app: ServingApp, options: ServeOptions, **settings: Any) -> None:
        super().__init__(
            app,
            protocol=Front,
            max_connections=options.max_connections,
            receive_timeout=options.receive_timeout,
            **settings,
        )
        self.serving = app
        self._options = options
        self._endpoint: Endpoint | None = None

    def endpoint(self, state: ServerState) -> Endpoint:
        """What the connections of HTTP/2 share."""
        if self._endpoint is None:
            options = self._options
            self._endpoint = Endpoint(
                door=_Doors(self.serving, state, options),
                connections=cast(set[Any], state.connections),
                max_body=options.max_body,
                most_held=options.max_queue_bytes,
                receive_timeout=options.receive_timeout,
            )
            self._endpoint.door.endpoint = self._endpoint  # type: ignore[attr-defined]
        return self._endpoint


class _Doors:
    """Who answers a request of HTTP/2."""

    endpoint: Endpoint

    def __init__(self, app: ServingApp, state: ServerState, options: ServeOptions) -> None:
        self._app = app
        self._state = state
        self._max_body = options.max_body

    def __call__(self, stream: Stream) -> Sink:
        app, head = self._app, stream.head
        if app.infers_directly and head.path == INFER and head.method == "POST":
            return InferCall(stream, app.plane, self.endpoint)
        return AsgiSink(stream, app, state=self._state, max_body=self._max_body)


class Front(asyncio.Protocol):
    """A connection whose protocol is not known yet."""

    def __init__(
        self, config: NativeConfig, server_state: ServerState, app_state: dict[str, Any], **_: Any
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._since = SYSTEM_CLOCK.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close at once if there are too many."""
        self._transport = transport
        connections = cast(set[Any], self._state.connections)
        if len(connections) >= self._config.max_connections:
            transport.abort()
            return
        connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on, once it is clear to whom."""
        self._held = held = self._held + data
        if len(held) < len(PREFACE) and PREFACE.startswith(held):
            return
        transport = self._transport
        assert transport is not None
        self._leave()
        if held.startswith(PREFACE):
            connection = Connection(self._config.endpoint(self._state))
            transport.set_protocol(connection)
            connection.connection_made(transport)
            connection.begin(held[len(PREFACE) :])
            return
        kind = DirectProtocol if self._config.serving.infers_directly else LimitedProtocol
        http1 = kind(self._config, self._state, self._app_state)
        transport.set_protocol(http1)
        http1.connection_made(transport)
        http1.data_received(held)

    def connection_lost(self, exc: Exception | None) -> None:
        """It said too little."""
        self._leave()

    def check(self, now: float) -> None:
        """Close if the client has been silent for too long."""
        if now - self._since > min(_HEAD_SECONDS, self._config.receive_timeout):
            self.shutdown()

    def shutdown(self) -> None:
        """Nothing was asked."""
        if self._transport is not None:
            self._transport.close()

    def _leave(self) -> None:
        cast(set[Any], self._state.connections).discard(self)
