"""False alarms, delay and power on streams that are simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coalmine_loadtests.monitors._detectors import Method, Worker
from coalmine_loadtests.monitors._results import Delay, NullRuns
from coalmine_loadtests.monitors._scores import delays, run_length, threshold_for
from coalmine_loadtests.monitors._worlds import SHIFTS, World, moved, null_rows

__all__ = ["Sizes", "compare", "count_false_alarms", "coverage", "psi_share"]

Floats = NDArray[np.float64]

#: Windows before the change of a stream that is moved, and after it.
_BEFORE, _AFTER = 3, 12
#: A feature's threshold is at least the 95th percentile of the reference's own windows.
_DECLARED_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is simulated."""

    runs: int
    windows: int
    """Null windows of a run."""

    window: int
    """Rows of a window."""

    reference: int
    """Windows of the reference."""

    run_length: float
    """Windows between false alarms at which methods are compared."""

    budget: float
    """Processor's seconds of a method in a world: what is slow gets fewer runs, at least one."""

    seed: int


def _rng(sizes: Sizes, world: World, run: int) -> np.random.Generator:
    # The same streams for every method; a name's bytes, since Python's hashes differ by process.
    return np.random.default_rng([sizes.seed, run, *world.name.encode()])


def count_false_alarms(worker: Worker, world: World, sizes: Sizes, *, method: str) -> NullRuns:
    """Run a method at its own threshold where nothing happens; scores are 1 while it alarms."""
    series = []
    for run in range(sizes.runs):
        rng = _rng(sizes, world, run)
        rows = null_rows(world, (sizes.reference + sizes.windows) * sizes.window, rng)
        series.append(_scores(worker, rows, sizes, method=method)[0])
    return NullRuns(
        runs=len(series),
        windows=sum(map(len, series)),
        run_length=run_length(series, 1.0),
        alarms=sum(max(scores, default=0.0) >= 1.0 for scores in series),
    )


def compare(
    worker: Worker, method: Method, world: World, sizes: Sizes
) -> Iterator[tuple[str, Delay]]:
    """Set a method's threshold on nulls, then measure its delays: a result for each shift."""
    nulls: list[list[float]] = []
    spent = 0.0
    for run in range(sizes.runs):
        rng = _rng(sizes, world, run)
        rows = null_rows(world, (sizes.reference + sizes.windows) * sizes.window, rng)
        scores, seconds = _scores(worker, rows, sizes, method=method.method)
        nulls.append(scores)
        spent += seconds
        if spent > sizes.budget:
            break
    threshold = threshold_for(nulls, target=sizes.run_length)
    for shift in SHIFTS:
        series, spent = [], 0.0
        for run in range(sizes.runs):
            rng = _rng(sizes, world, 1_000_000 + run)
            count = sizes.reference + _BEFORE + _AFTER
            rows = null_rows(world, count * sizes.window, rng)
            after = (sizes.reference + _BEFORE) * sizes.window
            feature = int(rng.integers(world.features))
            rows = moved(rows, after=after, size=shift, feature=feature)
            scores, seconds = _scores(worker, rows, sizes, method=method.method)
            series.append(scores)
            spent += seconds
            if spent > sizes.budget:
                break
        yield (
            f"{shift:g}",
            Delay(
                threshold=threshold,
                run_length=run_length(nulls, threshold),
                null_windows=sum(map(len, nulls)),
                delays=delays(series, threshold, change=_BEFORE),
            ),
        )


def _scores(
    worker: Worker, rows: Floats, sizes: Sizes, *, method: str
) -> tuple[list[float], float]:
    cut = sizes.reference * sizes.window
    answer = worker.ask(
        "scores",
        arrays={"reference": rows[:cut], "stream": rows[cut:]},
        method=method,
        window=sizes.window,
    )
    return answer["scores"], answer["fit_seconds"] + answer["seconds"]


def psi_share(worker: Worker, sizes: Sizes, *, rows: int = 200) -> dict[str, float]:
    """How often PSI is over its threshold where nothing happens, of windows of 200 rows."""
    rng = np.random.default_rng([sizes.seed, rows])
    world = World("independent")
    values = null_rows(world, 20 * rows + sizes.runs * 50 * rows, rng)
    found = worker.ask(
        "psi",
        arrays={"reference": values[: 20 * rows], "stream": values[20 * rows :]},
        window=rows,
        min_effect=0.0,
    )
    return {**found, "declared": _DECLARED_SHARE}


def coverage(worker: Worker, sizes: Sizes, *, rows: int = 500) -> dict[str, float]:
    """How often a model's true accuracy lies within the interval estimated without labels.

    The scores are calibrated, and what is scored drifts: rows get harder, then easier again. The
    true accuracy is that of the window's own rows, once all of their labels are known.
    """
    covered = windows = 0
    width = 0.0
    for run in range(max(2, sizes.runs // 4)):
        rng = np.random.default_rng([sizes.seed, run, 7])
        known = _calibrated(40 * rows, rng, drift=False)
        fresh = _calibrated(50 * rows, rng, drift=True)
        answer = worker.ask("estimate", arrays={"reference": known, "stream": fresh}, window=rows)
        right = (fresh[:, 0] >= 0.5) == (fresh[:, 1] > 0)
        true = right.reshape(-1, rows).mean(axis=1)
        low, high = np.array(answer["lower"]), np.array(answer["upper"])
        covered += int(((low <= true) & (true <= high)).sum())
        windows += len(true)
        width += float((high - low).sum())
    return {"covered": covered / windows, "windows": windows, "width": width / windows}


def _calibrated(rows: int, rng: np.random.Generator, *, drift: bool) -> Floats:
    """Scores of the positive class and the truth [rows, 2]; a row is positive as often as said."""
    logit = rng.normal(0, 2, rows)
    if drift:
        logit *= 1 - 0.5 * np.sin(np.linspace(0, np.pi, rows))
    score = 1 / (1 + np.exp(-logit))
    truth = rng.random(rows) < score
    return np.column_stack([score, truth])
