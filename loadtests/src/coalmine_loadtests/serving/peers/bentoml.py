"""BentoML: a service class with NumPy types, over JSON.

`bentoml` is what it ships; `bentoml-tuned` has its access log and metrics off, `bentoml-batched` is
`batchable=True` besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coalmine_loadtests.serving._cells import cells_of
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import PLAIN

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("bentoml", "onnxruntime", "uvicorn")


def _serve(launch: Launch) -> Sequence[str]:
    return (
        str(launch.python), "-m", "bentoml", "serve", "bentoml_service:Bench",
        "--working-dir", str(launch.peers), "--host", "127.0.0.1", "--port", str(launch.http_port),
    )  # fmt: skip


def _environment(launch: Launch, *switches: str) -> Mapping[str, str]:
    home = launch.scratch / "bentoml"
    return {
        "BENCH_MODEL": str(launch.model),
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        **dict.fromkeys(switches, "1"),
    }


SERVERS = (
    Server(
        name="bentoml-tuned",
        title="BentoML, no access log and metrics",
        lock="bentoml",
        distributions=_DISTRIBUTIONS,
        cells=cells_of("mlp", "gbt", protocols=("json",)),
        wire=PLAIN,
        command=_serve,
        environment=lambda launch: _environment(launch, "BENCH_TUNED"),
        ready="/readyz",
    ),
    Server(
        name="bentoml-batched",
        title="BentoML, the same, batchable",
        lock="bentoml",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64"),
        wire=PLAIN,
        command=_serve,
        environment=lambda launch: _environment(launch, "BENCH_TUNED", "BENCH_BATCHABLE"),
        ready="/readyz",
    ),
    Server(
        name="bentoml",
        title="BentoML, as shipped",
        lock="bentoml",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64"),
        wire=PLAIN,
        command=_serve,
        environment=_environment,
        ready="/readyz",
    ),
)
