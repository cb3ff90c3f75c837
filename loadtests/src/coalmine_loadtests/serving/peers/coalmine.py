"""Coalmine itself: `coalmine serve` of the same file, with every row recorded and without records.

The collector that the records go to runs on the core of the load, as it would on another machine.
"""

from __future__ import annotations

import http.client
import re
import sys
from collections.abc import Mapping, Sequence

from coalmine_loadtests.serving._cells import cells_of
from coalmine_loadtests.serving._server import Launch, Server, this_one
from coalmine_loadtests.serving._wire import V2

__all__ = ["SERVERS"]

_DISTRIBUTIONS = ("coalmine", "onnxruntime", "uvloop")


def _serve(launch: Launch, *options: str) -> Sequence[str]:
    return (
        str(launch.python), "-m", "coalmine.serving", str(launch.model),
        "--name", launch.name, "--port", str(launch.http_port), *options,
    )  # fmt: skip


def _recorded(launch: Launch) -> Sequence[str]:
    url, spool = f"http://127.0.0.1:{launch.spare_port}", launch.scratch / "spool"
    return _serve(launch, "--records", url, "--spool", str(spool))


def _collector(launch: Launch) -> Sequence[str]:
    log = f"sqlite:///{launch.scratch / 'records.db'}"
    return (sys.executable, "-m", this_one("_collector"), str(launch.spare_port), log)


_ROWS = re.compile(r"^coalmine_records_(\w+?)(?:_total)?(?:\{[^}]*\})? ([\d.e+]+)$", re.M)


def _account(launch: Launch) -> Mapping[str, float]:
    """Record rows that the server was given, shed, and still has to ship."""
    connection = http.client.HTTPConnection("127.0.0.1", launch.http_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    rows: dict[str, float] = {}
    for name, value in _ROWS.findall(text):
        key = f"records_{name}"
        rows[key] = rows.get(key, 0.0) + float(value)
    return rows


SERVERS = (
    Server(
        name="coalmine",
        title="Coalmine, every row recorded",
        cells=cells_of("mlp", "gbt", "nop", "wide", "image"),
        wire=V2,
        command=_recorded,
        companion=_collector,
        account=_account,
        distributions=_DISTRIBUTIONS,
        same_port=True,
    ),
    Server(
        name="coalmine-unrecorded",
        title="Coalmine, records off",
        cells=("mlp/json1_c64", "mlp/json1_c8", "mlp/grpc1_c8m8", "mlp/bin1024_c8"),
        wire=V2,
        command=_serve,
        distributions=_DISTRIBUTIONS,
        same_port=True,
    ),
)
