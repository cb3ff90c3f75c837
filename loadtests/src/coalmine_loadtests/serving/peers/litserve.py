"""LitServe: a LitAPI over JSON, over raw bytes, and with `max_batch_size`.

One worker and one API process. `litserve` uses the fast queue that its documents advise for many
small requests, `litserve-default` the one it ships with.
"""

from __future__ import annotations

from collections.abc import Sequence

from coalmine_loadtests.serving._cells import cells_of
from coalmine_loadtests.serving._models import MODELS
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import PLAIN

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("litserve", "onnxruntime", "uvicorn")


def _serve(launch: Launch, *options: str) -> Sequence[str]:
    return (
        str(launch.python), str(launch.peers / "litserve_server.py"),
        "--model", str(launch.model), "--port", str(launch.http_port),
        "--columns", str(MODELS[launch.name].row[0]), *options,
    )  # fmt: skip


SERVERS = (
    Server(
        name="litserve",
        title="LitServe, fast queue",
        lock="litserve",
        distributions=_DISTRIBUTIONS,
        cells=cells_of("mlp", "gbt", protocols=("json",)),
        wire=PLAIN,
        command=lambda launch: _serve(launch, "--fast-queue"),
        ready="/health",
    ),
    Server(
        name="litserve-batched",
        title="LitServe, fast queue, max_batch_size",
        lock="litserve",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64"),
        wire=PLAIN,
        command=lambda launch: _serve(launch, "--fast-queue", "--batch", "64"),
        ready="/health",
    ),
    Server(
        name="litserve-bytes",
        title="LitServe, fast queue, raw bytes",
        lock="litserve",
        distributions=_DISTRIBUTIONS,
        cells=cells_of("mlp", protocols=("binary",)),
        wire=PLAIN,
        command=lambda launch: _serve(launch, "--fast-queue", "--bytes"),
        ready="/health",
    ),
    Server(
        name="litserve-default",
        title="LitServe, as shipped",
        lock="litserve",
        distributions=_DISTRIBUTIONS,
        cells=("mlp/json1_c8", "mlp/json1_c64"),
        wire=PLAIN,
        command=_serve,
        ready="/health",
    ),
)
