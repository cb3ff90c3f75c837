"""MLServer: a custom runtime with the NumPy codec, over V2 JSON and gRPC (no binary tensors).

As shipped it serves from a worker process (`mlserver-worker`); its documents advise none for a
small model (`mlserver`), and adaptive batching for many small requests (`mlserver-batched`).
"""

from __future__ import annotations

from collections.abc import Sequence

from coalmine_loadtests.serving._cells import cells_of
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import V2

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("mlserver", "onnxruntime", "uvicorn", "grpcio")


def _serve(launch: Launch, *options: str) -> Sequence[str]:
    return (
        str(launch.python), str(launch.peers / "mlserver_server.py"),
        "--model", str(launch.model), "--name", launch.name,
        "--folder", str(launch.scratch / "mlserver"), "--http-port", str(launch.http_port),
        "--grpc-port", str(launch.grpc_port), "--metrics-port", str(launch.spare_port), *options,
    )  # fmt: skip


SERVERS = (
    Server(
        name="mlserver",
        title="MLServer, no worker process",
        lock="mlserver",
        distributions=_DISTRIBUTIONS,
        cells=(
            *cells_of("mlp", "gbt", protocols=("json", "grpc")),
            "wide/grpc1_c1m1",
        ),
        wire=V2,
        command=_serve,
    ),
    Server(
        name="mlserver-batched",
        title="MLServer, adaptive batching",
        lock="mlserver",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64", "mlp/grpc1_c8m8"),
        wire=V2,
        command=lambda launch: _serve(launch, "--batch", "64"),
    ),
    Server(
        name="mlserver-worker",
        title="MLServer, one worker process (as shipped)",
        lock="mlserver",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64", "mlp/grpc1_c8m8"),
        wire=V2,
        command=lambda launch: _serve(launch, "--workers", "1"),
    ),
)
