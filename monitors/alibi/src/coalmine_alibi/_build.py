"""From a plan and a model version's reference to a detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_alibi._attribution import Moves
from coalmine_alibi._check import Plan
from coalmine_alibi._detector import AlibiDetector
from coalmine_alibi._judge import Floats, Judge
from coalmine_alibi._library import seeded
from coalmine_alibi._online import OnlineJudge, make_online_detector
from coalmine_alibi._outliers import OutlierJudge, make_outlier_detector
from coalmine_alibi._windows import WindowJudge, make_window_detector
from coalmine_monitors.extension import UnusableReferenceError

__all__ = ["build_detector"]

#: The fewest complete rows that anything is compared with.
_LEAST_REFERENCE = 20
#: Share of rows that may have one value, for a column to count as continuous.
_TIED = 0.05

Prepare = Callable[[Floats], Any]


def build_detector(plan: Plan, columns: tuple[Column, ...], reference: Floats) -> AlibiDetector:
    """The detector of a version. `reference` [rows, columns] is in time order, NaN where missing.

    Raises UnusableReferenceError, with the key of the service file where that can help.
    """
    chosen = _chosen(plan, columns, reference)
    columns = tuple(columns[place] for place in chosen)
    readable = _binary if plan.entry.columns == "binary" else _complete
    rows = reference[:, chosen]
    rows = rows[readable(rows)]
    if len(rows) < _LEAST_REFERENCE:
        raise UnusableReferenceError(
            f"{plan.key}: the reference has {len(rows)} rows that {plan.detector} can read, "
            f"of {len(reference)}"
        )
    count = min(plan.reference_rows, len(rows))
    rows = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
    try:
        with seeded(plan.seed, window=0):
            judge = _judge(plan, rows, columns=columns)
    except UnusableReferenceError:
        raise
    except Exception as error:  # of what alibi-detect makes of these rows and options
        raise UnusableReferenceError(
            f"{plan.key}: alibi-detect cannot make a {plan.detector}: {error}"
        ) from error
    return AlibiDetector(judge, plan, columns=columns, moves=Moves(rows), readable=readable)


def _judge(plan: Plan, rows: Floats, *, columns: tuple[Column, ...]) -> Judge:
    prepare = _prepare(plan, rows)
    if plan.entry.kind == "outlier":
        # Every other row: what it is fitted on cannot tell the usual share of outliers.
        fitted = plan.saved or make_outlier_detector(plan, prepare(rows[::2]))
        return OutlierJudge(fitted, plan, calibration=rows[1::2], prepare=prepare)
    if plan.entry.kind == "online":
        detector = plan.saved or make_online_detector(plan, prepare(rows))
        detector.reset_state()  # a saved one may come with rows of its last life
        return OnlineJudge(detector, prepare=prepare)
    categorical = tuple(
        place for place, column in enumerate(columns) if column.type == "categorical"
    )

    def make() -> Any:
        return plan.saved or make_window_detector(plan, prepare(rows), categorical=categorical)

    return WindowJudge(make, plan, prepare=prepare)


def _prepare(plan: Plan, reference: Floats) -> Prepare:
    """How rows are given to it."""
    if plan.entry.columns == "binary":
        return lambda rows: rows.astype(np.bool_)
    if plan.saved is None and plan.entry.standardised:
        mean, spread = reference.mean(axis=0), reference.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        return lambda rows: ((rows - mean) / spread).astype(np.float32)
    if plan.saved is not None and plan.entry.backends:
        return lambda rows: rows.astype(np.float32)
    return lambda rows: rows


def _chosen(plan: Plan, columns: tuple[Column, ...], reference: Floats) -> list[int]:
    """The places of the columns that it sees."""
    names = [column.name for column in columns]
    suits = [_suits(plan, column, reference[:, place]) for place, column in enumerate(columns)]
    if not plan.features:
        chosen = [place for place, good in enumerate(suits) if good]
        if not chosen:
            raise UnusableReferenceError(
                f"{plan.key}.features: no {plan.entry.columns} column for {plan.detector}"
            )
        return chosen
    for name in plan.features:
        if name not in names:
            raise UnusableReferenceError(
                f"{plan.key}.features: there is no {name}; there are: {', '.join(names)}"
            )
        if plan.saved is None and not suits[names.index(name)]:
            raise UnusableReferenceError(
                f"{plan.key}.features: {name} is not {plan.entry.columns}, which is what "
                f"{plan.detector} takes"
            )
    return [names.index(name) for name in plan.features]


def _suits(plan: Plan, column: Column, values: Floats) -> bool:
    kind = plan.entry.columns
    if kind == "mixed":
        return True
    known = values[np.isfinite(values)]
    if kind == "continuous":
        # Ties are as good as drift to Cramer and von Mises.
        counts = np.unique(known, return_counts=True)[1]
        return column.type == "numeric" and bool(counts.max(initial=0) <= _TIED * len(known))
    if kind == "binary":
        return len(np.unique(known)) == 2 and bool(np.isin(known, (0.0, 1.0)).all())
    return column.type == kind


def _complete(rows: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(rows).all(axis=1), dtype=np.bool_)


def _binary(rows: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isin(rows, (0.0, 1.0)).all(axis=1), dtype=np.bool_)
