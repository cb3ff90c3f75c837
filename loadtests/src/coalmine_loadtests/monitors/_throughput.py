"""Rows a second of one core, and the memory that they take."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from coalmine_loadtests.monitors._detectors import OURS, Detectors, Method
from coalmine_loadtests.monitors._worlds import World, null_rows

__all__ = ["COLUMNS", "merge", "soak", "throughput"]

COLUMNS = 20
#: Rows of the reference.
_REFERENCE = 20_000
_MERGES = 20
#: Windows of Coalmine's that the reference has, at least.
_WINDOWS = 10
#: Rows judged by what judges row after row: it is a thousand times slower.
_ONLINE_ROWS = 2_000
#: Processor's seconds of one measurement, at least: a shorter one says nothing.
_LONG_ENOUGH = 0.2
#: Of one that is slow, about.
_SECONDS = 2.0


def throughput(
    detectors: Detectors, method: Method, *, rows: int, window: int, repeats: int
) -> dict[str, float]:
    """The median over `repeats` measurements, in a process that does nothing else.

    Seconds are the processor's, so that what else runs on the machine does not count; fitting is
    left out, as it happens once. Coalmine's windows have at most a tenth of the reference's rows:
    it cuts what it is given into windows of its own.
    """
    rng = np.random.default_rng(5)
    count = rows if method.batched else min(rows, _ONLINE_ROWS)
    longest = _REFERENCE // _WINDOWS if method.library == OURS else count
    each = min(window, longest)
    values = null_rows(World("independent"), _REFERENCE + count, rng)
    arrays = {"reference": values[:_REFERENCE], "stream": values[_REFERENCE:]}
    rates, peak = [], 0.0
    with detectors.fresh(method) as worker:

        def judge(count: int) -> dict[str, Any]:
            given = {**arrays, "stream": arrays["stream"][:count]}
            return worker.ask("scores", arrays=given, method=method.method, window=each)

        judge(each)  # imports, and compiles
        # As many rows as take some seconds: the slowest takes two for a window.
        rate = each / max(judge(each)["seconds"], 1e-6)
        count = min(count, max(round(rate * _SECONDS / each), 1) * each) // each * each
        for _ in range(repeats):
            judged, seconds = 0, 0.0
            while seconds < _LONG_ENOUGH:
                found = judge(count)
                judged += count
                seconds += found["seconds"]
            rates.append(judged / seconds)
            peak = found["peak_mb"]
    return {"rows_per_second": median(rates), "peak_mb": peak, "rows": count}


def soak(detectors: Detectors, method: Method, *, rows: int, window: int) -> dict[str, Any]:
    """Judge so many rows and compare the memory after a tenth with that after all."""
    assert method.library == OURS
    values = null_rows(World("independent"), _REFERENCE + 100_000, np.random.default_rng(6))
    arrays = {"reference": values[:_REFERENCE], "stream": values[_REFERENCE:]}
    with detectors.fresh(method) as worker:
        return worker.ask("soak", arrays=arrays, rows=rows, window=window)


def merge(detectors: Detectors, method: Method, *, partitions: int, window: int) -> dict[str, Any]:
    """Time the merge of a window's partitions, and compare it with one process."""
    assert method.library == OURS
    values = null_rows(World("independent"), 40 * window, np.random.default_rng(7))
    arrays = {"reference": values[: 39 * window], "stream": values[39 * window :]}
    with detectors.fresh(method) as worker:
        found = worker.ask(
            "merge", arrays=arrays, window=window, partitions=partitions, repeats=_MERGES
        )
    return {**found, "partitions": partitions}
