"""`coalmine serve`, without its command line."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace

from coalmine.serving._errors import StartupError
from coalmine.serving._options import ServeOptions

__all__ = ["serve"]


def serve(options: ServeOptions) -> int:
    """Serve one model until SIGTERM; the exit status, 1 if the server could not start.

    With pyvoy the process is replaced by the server (its id stays), so that this never returns
    unless the server cannot start. Call it last.
    """
    try:
        if options.server == "pyvoy" and options.grpc_port is not None:
            raise StartupError("--grpc-port is for uvicorn; pyvoy has gRPC on its only port")
        port = _free_port(options.host, options.port)
        if options.port == 0:
            print(f"http://{options.host}:{port}", flush=True)
        return _run(replace(options, port=port))
    except StartupError as error:
        print(f"coalmine serve: {error}", file=sys.stderr, flush=True)
        return 1


def _run(options: ServeOptions) -> int:
    if options.server == "uvicorn":
        from coalmine.serving import _uvicorn

        return _uvicorn.run(options)
    from coalmine.serving import _pyvoy

    _pyvoy.run(options)


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; StartupError, before a model is loaded, if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        chosen: int = probe.getsockname()[1]
        return chosen
