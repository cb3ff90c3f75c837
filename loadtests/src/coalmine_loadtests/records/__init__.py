"""The collector under load: how many rows a core takes in durably, and what `kill -9` costs."""

from __future__ import annotations

from coalmine_loadtests.records._bench import (
    CollectorBench,
    CollectorResult,
    run_collector_bench,
    write_json,
)
from coalmine_loadtests.records._kills import KillResult, run_kills

__all__ = [
    "CollectorBench",
    "CollectorResult",
    "KillResult",
    "run_collector_bench",
    "run_kills",
    "write_json",
]
