"""`coalmine serve`, without its command line."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec

from coalmine.serving._bounds import violations
from coalmine.serving._errors import StartupError
from coalmine.serving._options import ServeOptions
from coalmine.serving._ports import free_port
from coalmine.serving._records_to import settle_records

__all__ = ["run_one", "serve"]


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM; the exit status, 1 if the server could not start.

    With pyvoy the process is replaced by the server (its id stays), so that this never returns
    unless the server cannot start. Call it last.
    """
    try:
        _check(options)
        options = settle_records(options)
        if options.processes > 1:
            from coalmine.serving import _processes

            return _processes.run(options)
        port = free_port(options.host, options.port)
        if options.port == 0:
            print(f"http://{options.host}:{port}", flush=True)
        return run_one(replace(options, port=port))
    except StartupError as error:
        command = "serve" if options.predictor is None else "transform"
        print(f"coalmine {command}: {error}", file=sys.stderr, flush=True)
        return 1


def run_one(options: ServeOptions) -> int:
    """Be one server process; StartupError if it cannot start."""
    if options.server == "pyvoy":
        from coalmine.serving import _pyvoy

        _pyvoy.run(options)
    from coalmine.serving import _uvicorn

    return _uvicorn.run(options)


def _check(options: ServeOptions) -> None:
    """StartupError for options that make no sense, alone or together."""
    for said in violations(options):
        raise StartupError(said)
    if find_spec("onnxruntime") is None:
        raise StartupError(
            "ONNX Runtime is not installed: pip install 'coalmine[serving]', or 'coalmine[gpu]'"
        )
    if options.artefact is not None and options.transformer is None:
        raise StartupError("--artefact is what a transformer was fitted with: add --transformer")
    if options.server != "uvicorn" and options.grpc_port is not None:
        raise StartupError(
            f"--grpc-port is for uvicorn; {options.server} has gRPC on its only port"
        )
    if options.server == "uvicorn" and options.grpc_port and options.grpc_port == options.port:
        raise StartupError("--grpc-port and --port are the same; uvicorn needs two")
