"""Stock KServe: a `kserve.Model` as its documents show it, with one worker.

As shipped it writes three lines a request; `kserve-quiet` is told not to, as its users do in
production: no latency log, access log and trace log off.
"""

from __future__ import annotations

from collections.abc import Sequence

from coalmine_loadtests.serving._cells import cells_of
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import V2

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("kserve", "onnxruntime", "uvicorn", "grpcio")


def _serve(launch: Launch, *options: str) -> Sequence[str]:
    return (
        str(launch.python), str(launch.peers / "kserve_server.py"),
        "--model", str(launch.model), "--model_name", launch.name,
        "--http_port", str(launch.http_port), "--grpc_port", str(launch.grpc_port), *options,
    )  # fmt: skip


SERVERS = (
    Server(
        name="kserve-quiet",
        title="stock KServe, quiet logs",
        lock="kserve",
        distributions=_DISTRIBUTIONS,
        cells=cells_of("mlp", "gbt", "wide", "image"),
        wire=V2,
        command=lambda launch: _serve(launch, "--enable_latency_logging=False", "--quiet"),
    ),
    Server(
        name="kserve",
        title="stock KServe, as shipped",
        lock="kserve",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64", "mlp/grpc1_c8m1", "mlp/grpc1_c8m8"),
        wire=V2,
        command=_serve,
    ),
)
