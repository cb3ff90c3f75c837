"""The server on uvicorn's ground: signals, start, drain, end.

With our own front before it (`_native`) it speaks HTTP/1.1, HTTP/2 and gRPC on one port. As
`--server uvicorn`, HTTP/1.1, and gRPC by grpc.aio on a port of its own if one is given.
"""

from __future__ import annotations

import asyncio
import signal
from socket import socket as Socket
from types import FrameType
from typing import Any

import uvicorn

from coalmine.serving._app import ServingApp, create_asgi
from coalmine.serving._interpreter import settle
from coalmine.serving._logging import configure_logging
from coalmine.serving._member import Link
from coalmine.serving._native import NativeConfig
from coalmine.serving._options import ServeOptions
from coalmine.serving._ports import shared_socket
from coalmine.serving._uvicorn_limits import CLOSE, LimitedConfig, sweep

__all__ = ["run"]


def run(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit status."""
    configure_logging()
    server = _Server(create_asgi(options, link=Link.inherited()), options)
    settle()
    if options.processes == 1:
        server.run()
    else:
        with shared_socket(options.host, options.port) as shared:
            server.run(sockets=[shared])
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """uvicorn's server, draining before it stops."""

    def __init__(self, app: ServingApp, options: ServeOptions) -> None:
        settings: dict[str, Any] = {
            "host": options.host,
            "port": options.port,
            "lifespan": "on",
            "ws": "none",
            "log_config": None,
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "timeout_keep_alive": 65,
            "timeout_graceful_shutdown": 1,  # what is in flight has been waited for already
        }
        if options.server == "native":
            self._limits: LimitedConfig = NativeConfig(app, options, **settings)
        else:
            self._limits = LimitedConfig(
                app,
                max_connections=options.max_connections,
                receive_timeout=options.receive_timeout,
                **settings,
            )
        super().__init__(self._limits)
        self._app = app
        self._options = options
        self._grpc: Any = None
        self._sweeping: asyncio.Task[None] | None = None
        self._draining = False

    async def startup(self, sockets: list[Socket] | None = None) -> None:
        """Start gRPC too, and hear signals at once."""
        await super().startup(sockets)
        # uvicorn's own handlers wait for its next tick: up to 0.1 s of saying ready after SIGTERM.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        self._sweeping = asyncio.create_task(sweep(self._limits, self.server_state))
        if self._options.grpc_port is not None:
            from coalmine.serving._grpc_aio import start_grpc

            self._grpc = await start_grpc(
                self._app.grpc,
                host=self._options.host,
                port=self._options.grpc_port,
                max_body=self._options.max_body,
                share_port=self._options.processes > 1,
            )

    async def shutdown(self, sockets: list[Socket] | None = None) -> None:
        """Stop gRPC too."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._grpc is not None:
            await self._grpc.stop(grace=0.5)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, stop at once on the second.

        uvicorn's own handler would raise the signal again in the end: a clean stop exits with 0.
        """
        if self._draining:
            self.should_exit = self.force_exit = True
            return
        self._draining = True
        # Clients of HTTP/1.1 go elsewhere with their next request: the connection ends with us.
        self._limits.encoded_headers.append(CLOSE)  # of which it makes its own, once a second
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        self._app.drain(done=self._stop)

    def _stop(self) -> None:
        self.should_exit = True
