"""Ray Serve: one replica of one deployment, over HTTP and gRPC.

`ray` goes through the proxy; `ray-tuned` is the throughput mode that its documents advise, in which
the replica listens itself, without access logs; `ray-batched` joins requests by `@serve.batch`
besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coalmine_loadtests.serving._cells import Cell, cells_of
from coalmine_loadtests.serving._models import MODELS, FloatArray
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import PLAIN, V2, Request

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("ray", "onnxruntime", "uvicorn", "grpcio")
#: It takes its time to start, and to stop.
_READY_S = 120.0


class _PlainWithV2Grpc:
    """HTTP is left to the user, gRPC needs a published interface: V2's."""

    def request(self, cell: Cell, rows: FloatArray) -> Request:
        return (V2 if cell.protocol == "grpc" else PLAIN).request(cell, rows)

    def answer(self, cell: Cell, headers: Mapping[str, str], body: bytes) -> FloatArray:
        return (V2 if cell.protocol == "grpc" else PLAIN).answer(cell, headers, body)


def _serve(launch: Launch, *options: str) -> Sequence[str]:
    return (
        str(launch.python), str(launch.peers / "ray_server.py"),
        "--model", str(launch.model),
        "--columns", str(MODELS[launch.name].row[0]), "--http-port", str(launch.http_port),
        "--grpc-port", str(launch.grpc_port), *options,
    )  # fmt: skip


def _environment(launch: Launch) -> Mapping[str, str]:
    # The replica and the proxy import the session and the messages by name.
    return {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(launch.peers)}


def _tuned(launch: Launch) -> Mapping[str, str]:
    # In this mode the replica listens itself, on a port of a range, and the proxy is not asked.
    ports = {"HTTP": launch.http_port, "GRPC": launch.grpc_port}
    ranges = {
        f"RAY_SERVE_DIRECT_INGRESS_{end}_{protocol}_PORT": str(port + beyond)
        for protocol, port in ports.items()
        for end, beyond in (("MIN", 0), ("MAX", 1))
    }
    return {**_environment(launch), "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", **ranges}


SERVERS = (
    Server(
        name="ray-tuned",
        title="Ray Serve, throughput mode",
        lock="ray",
        distributions=_DISTRIBUTIONS,
        cells=(*cells_of("mlp"), "gbt/json1_c64"),
        wire=_PlainWithV2Grpc(),
        command=lambda launch: _serve(launch, "--quiet", "--direct"),
        environment=_tuned,
        ready="/-/healthz",
        ready_s=_READY_S,
    ),
    Server(
        name="ray-batched",
        title="Ray Serve, throughput mode, serve.batch",
        lock="ray",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64", "mlp/grpc1_c8m8"),
        wire=_PlainWithV2Grpc(),
        command=lambda launch: _serve(launch, "--quiet", "--direct", "--batching"),
        environment=_tuned,
        ready="/-/healthz",
        ready_s=_READY_S,
    ),
    Server(
        name="ray",
        title="Ray Serve, as shipped",
        lock="ray",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64", "mlp/grpc1_c8m8"),
        wire=_PlainWithV2Grpc(),
        command=_serve,
        environment=_environment,
        ready="/-/healthz",
        ready_s=_READY_S,
    ),
)
