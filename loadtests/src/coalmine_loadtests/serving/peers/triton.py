"""Triton, from the wheel of nvidia-pytriton.

`triton` is its own server with the model in the Python backend, with and without dynamic batching;
`pytriton` the decorated function that the wheel's documents show, which batches as shipped.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence

from coalmine_loadtests.serving._cells import cells_of
from coalmine_loadtests.serving._models import MODELS
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import V2

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("nvidia-pytriton", "onnxruntime")


def _serve(launch: Launch, script: str, state: str, *options: str) -> Sequence[str]:
    model = MODELS[launch.name]
    return (
        str(launch.python), str(launch.peers / script),
        "--model", str(launch.model), "--name", launch.name,
        "--row", str(list(model.row)), "--answer", str(list(model.answer)),
        state, str(launch.scratch / "triton"), *options,
        f"--http-port={launch.http_port}", f"--grpc-port={launch.grpc_port}",
        f"--metrics-port={launch.spare_port}",
    )  # fmt: skip


def _triton(launch: Launch, *options: str) -> Sequence[str]:
    return _serve(launch, "triton_server.py", "--repository", *options)


def _library(launch: Launch) -> Mapping[str, str]:
    """PyTriton's stub is linked to libpython, and may find another build of it first."""
    return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}


def _pytriton(launch: Launch) -> Sequence[str]:
    return _serve(launch, "pytriton_server.py", "--workspace")


SERVERS = (
    Server(
        name="triton",
        title="Triton, Python backend",
        lock="triton",
        distributions=_DISTRIBUTIONS,
        cells=cells_of("mlp", "gbt", "wide", "image"),
        wire=V2,
        command=_triton,
    ),
    Server(
        name="triton-batched",
        title="Triton, Python backend, dynamic batching",
        lock="triton",
        distributions=_DISTRIBUTIONS,
        cells=cells_of("mlp", "gbt"),
        wire=V2,
        command=lambda launch: _triton(launch, "--batching"),
    ),
    Server(
        name="pytriton",
        title="PyTriton, a decorated function",
        lock="triton",
        distributions=_DISTRIBUTIONS,
        cells=(
            "mlp/json1_c8",
            "mlp/json1_c64",
            "mlp/grpc1_c8m1",
            "mlp/grpc1_c8m8",
            "mlp/bin1024_c8",
        ),
        wire=V2,
        environment=_library,
        command=_pytriton,
    ),
)
