"""Metrics from sums, each with an interval that holds however often it is looked at.

Accuracy, Brier score, precision, recall and F1 are means of values in [0, 1] (F1 = 2q / (1 + q),
where q is the share of right rows among those that are of the class or said to be), so that their
intervals are exact; of the mean over k classes each class's interval is taken at 1 / k of the error
(union bound: conservative). Everything else has the asymptotic interval of its influence on a row;
of a mean of rankings the mean of their deviations is taken, which is never less than the mean's
own.

Sources: Guo et al., "On calibration of modern neural networks", 2017 (calibration error); DeLong et
al., "Comparing the areas under two or more correlated ROC curves", 1988 (deviation of the AUC).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.performance._intervals import USUAL, Level, mean_interval, rate_interval
from coalmine_monitors.performance._schema import ClassScores, Measured
from coalmine_monitors.performance._sums import (
    AUC_BINS,
    BINS,
    MICRO,
    ClassLayout,
    RegressionLayout,
    layout_of,
)
from coalmine_monitors.performance._tasks import Task

__all__ = ["Measures", "measure", "rows_of", "spread_of"]

Floats = NDArray[np.float64]


class Measures(NamedTuple):
    """What is to be said of some labelled rows."""

    metrics: Mapping[str, Measured] = {}
    classes: Mapping[str, ClassScores] = {}
    label_lag_s: float | None = None


def measure(task: Task, sums: Floats, *, level: Level = USUAL) -> Measures:
    """All metrics of the rows that `sums` [width] are of; none without rows.

    `level` says how much more alike than independent rows they are.
    """
    if sums[0] <= 0:
        return Measures()
    layout = layout_of(task)
    if isinstance(layout, RegressionLayout):
        return Measures(_regression(sums, level=level), label_lag_s=float(sums[1] / sums[0] / 1e3))
    classes, macro = _by_class(task, layout, sums, level=level)
    metrics = {
        "accuracy": _rate(sums[1], sums[0], level=level),
        **macro,
        **_chances(layout, sums, level=level),
    }
    return Measures(metrics, classes, label_lag_s=float(sums[2] / sums[0] / 1e3))


def rows_of(sums: Floats) -> int:
    """The labelled rows that sums are of."""
    return int(sums[0])


def spread_of(task: Task, sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Rows, sum and sum of squares [cells] of what the design effect is told by.

    Of `sums` [cells, width]: the right answers, or the sizes of errors.
    """
    if task.kind == "classification":
        return sums[:, 0], sums[:, 1], sums[:, 1]
    return sums[:, 0], sums[:, 3], sums[:, 4]


def _rate(won: float, rows: float, *, level: Level) -> Measured:
    low, high = rate_interval([won], [rows], level=level)
    return Measured(value=float(won / rows), lower=float(low[0]), upper=float(high[0]))


def _mean(
    value: float, variance: float, rows: float, *, level: Level, slack: float = 0.0
) -> Measured:
    """A mean with its interval; `slack` is by how much it may be too high besides."""
    half = mean_interval(float(np.sqrt(max(variance, 0.0))), rows, level=level)
    if half is None:
        return Measured(value=float(value))
    return Measured(
        value=float(value), lower=float(value - half - slack), upper=float(value + half)
    )


def _between(measured: Measured, low: float, high: float = np.inf) -> Measured:
    """The same, with an interval inside of what the metric can be."""
    if measured.lower is None or measured.upper is None:
        return measured
    bounds = {
        "lower": float(np.clip(measured.lower, low, high)),
        "upper": float(np.clip(measured.upper, low, high)),
    }
    return measured.model_copy(update=bounds)


def _by_class(
    task: Task, layout: ClassLayout, sums: Floats, *, level: Level
) -> tuple[dict[str, ClassScores], dict[str, Measured]]:
    count = layout.counted
    hit, said, true = sums[layout.HEAD : layout.HEAD + 3 * count].reshape(3, count)
    seen = np.flatnonzero((said > 0) | (true > 0))
    if not seen.size:
        return {}, {}
    hit, said, true = hit[seen], said[seen], true[seen]
    rows = np.stack([said, true, said + true - hit])
    share = np.divide(hit, rows, out=np.zeros_like(rows), where=rows > 0)
    # Of each class by itself, and as one of those that a mean is of.
    low, high = (
        bound.reshape(2, *rows.shape)
        for bound in rate_interval(
            np.tile(hit, 6),
            np.tile(rows.ravel(), 2),
            level=level,
            share=np.repeat([1.0, 1 / seen.size], rows.size),
        )
    )
    for values in (share, low[0], low[1], high[0], high[1]):
        values[2] = 2 * values[2] / (1 + values[2])

    def measured(index: int, place: int) -> Measured:
        return Measured(
            value=float(share[index, place]),
            lower=float(low[0, index, place]),
            upper=float(high[0, index, place]),
        )

    classes = {
        task.classes[klass]: ClassScores(
            labelled=int(true[place]),
            precision=measured(0, place),
            recall=measured(1, place),
            f1=measured(2, place),
        )
        for place, klass in enumerate(seen)
    }
    macro = {
        name: Measured(
            value=float(share[index].mean()),
            lower=float(low[1, index].mean()),
            upper=float(high[1, index].mean()),
        )
        for index, name in enumerate(("precision", "recall", "f1"))
    }
    return classes, macro


def _chances(layout: ClassLayout, sums: Floats, *, level: Level) -> dict[str, Measured]:
    rows = float(sums[3])
    if rows <= 0:
        return {}
    brier, loss, squares = sums[4:7] / MICRO / rows
    most = 1.0 if layout.classes == 2 else 2.0
    share = _rate(sums[4] / MICRO / most, rows, level=level)
    found = {
        "brier": Measured(
            value=float(brier), lower=(share.lower or 0) * most, upper=(share.upper or 0) * most
        ),
        "log_loss": _between(_mean(loss, squares - loss**2, rows, level=level), 0.0),
        "calibration_error": _calibration(layout, sums, level=level),
    }
    ranking = _ranking(layout, sums, level=level)
    return found if ranking is None else {**found, "auc": ranking}


def _calibration(layout: ClassLayout, sums: Floats, *, level: Level) -> Measured:
    cells = sums[layout.calibration : layout.calibration + 4 * BINS].reshape(BINS, 4)
    cells = cells[cells[:, 0] > 0]
    count, sure, right, squares = cells[:, 0], cells[:, 1] / MICRO, cells[:, 2], cells[:, 3] / MICRO
    rows = float(count.sum())
    error = float(abs(sure - right).sum() / rows)
    # Chance alone makes the bins of a perfectly calibrated model differ: by so much on average.
    spread = np.sqrt(level.effect * np.maximum(squares - (sure - right) ** 2 / count, 0.0))
    luck = float(np.sqrt(2 / np.pi) * spread.sum() / rows)
    variance = float(squares.sum() / rows) - error**2
    return _between(_mean(error, variance, rows, level=level, slack=luck), 0.0, 1.0)


def _ranking(layout: ClassLayout, sums: Floats, *, level: Level) -> Measured | None:
    """The area under the ROC curve, of a class against the others; the mean over classes."""
    counts = sums[layout.ranks :].reshape(-1, 2, AUC_BINS)
    counts = counts[(counts.sum(axis=2) > 0).all(axis=1)]
    if not len(counts):
        return None
    others, own = counts[:, 0], counts[:, 1]
    rows_others, rows_own = others.sum(axis=1), own.sum(axis=1)
    below = (np.cumsum(others, axis=1) - others / 2) / rows_others[:, None]
    above = 1 - (np.cumsum(own, axis=1) - own / 2) / rows_own[:, None]
    area = (own * below).sum(axis=1) / rows_own
    # Rows in one bin are not told apart: the true ranking lies within this.
    tied = (own * others).sum(axis=1) / (2 * rows_own * rows_others)
    variance_own = (own * (below - area[:, None]) ** 2).sum(axis=1) / rows_own
    variance_others = (others * (above - area[:, None]) ** 2).sum(axis=1) / rows_others
    error = np.sqrt(variance_own / rows_own + variance_others / rows_others)
    # A perfect ranking may still miss the next row: half a rank.
    error = np.maximum(error, 0.5 / (np.minimum(rows_own, rows_others) + 1))
    rows = float(rows_own[0] + rows_others[0])
    half = mean_interval(float(error.mean()) * np.sqrt(rows), rows, level=level)
    value = float(area.mean())
    if half is None:
        return Measured(value=value)
    slack = half + float(tied.mean())
    return _between(Measured(value=value, lower=value - slack, upper=value + slack), 0.0, 1.0)


def _regression(sums: Floats, *, level: Level) -> dict[str, Measured]:
    rows = float(sums[0])
    bias, size, square, fourth, *powers = sums[2:10] / rows
    squared = _between(_mean(square, fourth - square**2, rows, level=level), 0.0)
    found = {
        "mae": _between(_mean(size, square - size**2, rows, level=level), 0.0),
        "rmse": Measured(
            value=float(np.sqrt(square)),
            lower=None if squared.lower is None else float(np.sqrt(squared.lower)),
            upper=None if squared.upper is None else float(np.sqrt(squared.upper)),
        ),
        "bias": _mean(bias, square - bias**2, rows, level=level),
    }
    explained = _explained(squared, powers, rows, level=level)
    if explained is not None:
        found["r2"] = explained
    if sums[10] > 0:
        relative, relatives = sums[11:13] / sums[10]
        one = _mean(relative, relatives - relative**2, float(sums[10]), level=level)
        found["mape"] = _between(one, 0.0)
    return found


def _explained(
    squared: Measured, powers: list[float], rows: float, *, level: Level
) -> Measured | None:
    """1 - squared error / variance of the truth; None if the truth is one value."""
    first, second, third, fourth = powers
    variance = second - first**2
    if variance <= 1e-12 * max(second, 1e-300):
        return None
    about = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    spread = _between(_mean(variance, about - variance**2, rows, level=level), 0.0)
    value = 1 - squared.value / variance
    bounds = (squared.lower, squared.upper, spread.lower, spread.upper)
    low, high, least, most = bounds
    if low is None or high is None or least is None or most is None or least <= 0:
        return Measured(value=float(value))
    # Both intervals at once: the union bound, and the corners.
    return Measured(value=float(value), lower=1 - high / least, upper=1 - low / most)
