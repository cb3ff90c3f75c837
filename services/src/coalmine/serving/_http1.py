"""HTTP/1.1 inside a pyvoy server: Envoy passes its bytes on to uvicorn's protocol, in our own loop.

pyvoy takes a request from Envoy's thread to ours and back in several steps, each with a turn of the
interpreter's lock. That is worth it for HTTP/2 and gRPC, which nothing else in Python speaks nearly
as fast; HTTP/1.1 costs half as much when it is parsed in the thread that answers it. Envoy still
owns the port: it tells the protocols apart by their first bytes and counts the connections.
"""

from __future__ import annotations

import asyncio
import os

from uvicorn.server import ServerState

from coalmine.serving._asgi import App
from coalmine.serving._options import HTTP1_VARIABLE, ServeOptions
from coalmine.serving._uvicorn_limits import CLOSE, LimitedConfig, LimitedProtocol, sweep

__all__ = ["Http1"]

#: As in Envoy's configuration for HTTP/2.
_IDLE_SECONDS = 300


class Http1:
    """Listens for what Envoy passes on, from `start` to `close`."""

    def __init__(self, app: App, options: ServeOptions, *, address: str) -> None:
        self._address = f"\0{address}"
        self._config = LimitedConfig(
            app,
            max_connections=options.max_connections,
            receive_timeout=options.receive_timeout,
            lifespan="off",  # pyvoy tells the application
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @classmethod
    def inherited(cls, app: App, options: ServeOptions) -> Http1 | None:
        """What the environment asks for; None without an address there."""
        address = os.environ.get(HTTP1_VARIABLE)
        return cls(app, options, address=address) if address else None

    async def start(self) -> None:
        """Listen."""
        self._config.load()
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: LimitedProtocol(config=self._config, server_state=self._state, app_state={}),
            path=self._address,
            backlog=self._config.backlog,
        )
        self._sweeping = asyncio.create_task(sweep(self._config, self._state))

    def leave(self) -> None:
        """Tell clients with every answer to go elsewhere; from any thread."""
        self._state.default_headers = [CLOSE]

    async def close(self) -> None:
        """Take no more connections; what was in flight has been waited for already."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._server is not None:
            self._server.close()
