"""What every feature has to satisfy in every window, from the service file and the reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine.spec import FeatureSpec
from coalmine_monitors._rows import matrix

__all__ = ["Check", "Fault", "Rule", "build_rules", "faults"]

Check = Literal[
    "missing", "range", "constant", "sensor_check", "type", "unseen", "stuck", "schema", "volume",
    "order", "duplicates",
]  # fmt: skip

#: Share of values out of range that is a fault: one odd row in a window is not a broken sensor.
MAX_OUT_OF_RANGE = 0.01
#: Share of values that are no finite numbers, or no known categories, that is a fault.
MAX_ODD = 0.01
#: A signal repeats a value this seldom, or it may rest at one: then no run of one is a fault.
_CONTINUOUS = 0.95
#: Rows in a row with exactly one value that may always be.
_SHORTEST_RUN = 30
#: Factor on the worst window of the reference: the worst of few windows is soon exceeded by chance.
_SLACK = 2.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """The limits of one feature; None where it has none."""

    feature: str
    sensor: str | None
    max_missing: float
    range: tuple[float, float] | None
    max_out_of_range: float
    may_be_constant: bool
    median: float | None
    tolerance: float | None
    categories: int | None = None
    """How many the model knows; None of a number."""

    longest_run: int | None = None
    """Rows in a row that may have exactly one value; None: any number of them."""

    max_odd: float = MAX_ODD
    """Share of infinite numbers, or of unknown categories."""


@dataclass(frozen=True)
class Fault:
    """A limit that a window broke."""

    feature: str
    check: Check
    score: float
    threshold: float
    direction: Literal["up", "down", "other"]


def build_rules(
    columns: tuple[Column, ...],
    features: Iterable[FeatureSpec],
    reference: pa.Table | None,
    *,
    window_rows: int,
) -> tuple[Rule, ...]:
    """One rule per column.

    What the reference itself does is no fault where the service file does not say otherwise: a
    feature that is missing now and then, out of range once, or constant for a window. Without a
    reference only the service file's limits hold.
    """
    specs = {feature.name: feature for feature in features}
    past = None if reference is None else matrix(reference, columns)
    return tuple(
        _rule(
            column,
            specs.get(column.name) or FeatureSpec(name=column.name),
            None if past is None else past[:, index],
            window_rows=window_rows,
        )
        for index, column in enumerate(columns)
    )


def _rule(column: Column, spec: FeatureSpec, past: Floats | None, *, window_rows: int) -> Rule:
    categories = None if column.categories is None else len(column.categories)
    windows = [] if past is None else _windows(past, window_rows)
    max_missing = spec.max_missing
    if "max_missing" not in spec.model_fields_set:
        shares = [float(np.isnan(window).mean()) for window in windows]
        max_missing = max([max_missing, *(_SLACK * share for share in shares)])
    present = [window[~np.isnan(window)] for window in windows]
    outside = [_outside(window, spec.range) for window in present if window.size]
    longest = 0 if past is None else longest_run(past)[0]
    # Half a window at one value in the reference: a whole one is no fault either.
    constant = 2 * longest >= window_rows or any(window.size == 0 for window in present)
    odd = [_odd(window, categories) for window in present]
    known = past is not None and bool(np.isfinite(past).any())
    return Rule(
        feature=column.name,
        sensor=spec.sensor,
        max_missing=max_missing,
        range=spec.range,
        max_out_of_range=max([MAX_OUT_OF_RANGE, *(_SLACK * share for share in outside)]),
        may_be_constant=constant or not present,
        median=float(np.nanmedian(past)) if past is not None and known else None,
        tolerance=spec.tolerance,
        categories=categories,
        longest_run=_longest_run(past, longest) if categories is None else None,
        max_odd=max([MAX_ODD, *(_SLACK * share for share in odd)]),
    )


def _longest_run(past: Floats | None, longest: int) -> int | None:
    """How many rows in a row may have one value: many more than ever in the reference."""
    known = np.empty(0) if past is None else past[~np.isnan(past)]
    if not known.size or len(np.unique(known)) < _CONTINUOUS * known.size:
        return None
    return max(int(_SLACK * longest) + 10, _SHORTEST_RUN)


def longest_run(values: Floats, *, last: float = np.nan, length: int = 0) -> tuple[int, int]:
    """The longest run of one value, and the length of the one at the end.

    The rows before ended with `length` times `last`. Missing values are no run.

    >>> longest_run(np.array([2.0, 2.0, 3.0, 3.0]), last=2.0, length=5)
    (7, 2)
    """
    if not values.size:
        return length, length
    ends = np.flatnonzero(values[1:] != values[:-1])
    lengths = np.diff(np.concatenate([[-1], ends, [len(values) - 1]]))
    lengths[0] += length if values[0] == last else 0
    lengths[np.isnan(values[np.append(ends, len(values) - 1)])] = 0
    return int(lengths.max()), int(lengths[-1])


def _odd(values: Floats, categories: int | None) -> float:
    """The share of values that are no finite numbers, or no known categories."""
    if not values.size:
        return 0.0
    odd = ~np.isfinite(values)
    if categories is not None:
        odd |= (values < 0) | (values >= categories) | (values != np.floor(values))
    return float(odd.mean())


def _windows(past: Floats, window_rows: int) -> list[Floats]:
    count = max(len(past) // window_rows, 1)
    return (
        list(past[: count * window_rows].reshape(count, -1)) if len(past) >= window_rows else [past]
    )


def _outside(values: Floats, limits: tuple[float, float] | None) -> float:
    if limits is None or not values.size:
        return 0.0
    return float(((values < limits[0]) | (values > limits[1])).mean())


def faults(rule: Rule, values: Floats, *, run: int = 0) -> list[Fault]:
    """The limits that one window's `values` [rows] of a feature break.

    `run` is the longest run of one value in them, as `longest_run` has it.

    >>> rule = Rule("temperature", None, 0.01, (-40.0, 90.0), 0.01, False, None, None)
    >>> [fault.check for fault in faults(rule, np.array([20.0, 21.0, np.nan, 400.0]))]
    ['missing', 'range']
    """
    found: list[Fault] = []
    missing = float(np.isnan(values).mean())
    if missing > rule.max_missing:
        found.append(Fault(rule.feature, "missing", missing, rule.max_missing, "up"))
    present = values[~np.isnan(values)]
    # Of a window that is mostly missing there is no more to say.
    if present.size * 2 < values.size:
        return found
    outside = _outside(present, rule.range)
    if rule.range is not None and outside > rule.max_out_of_range:
        up = float((present > rule.range[1]).mean()) * 2 > outside
        direction: Literal["up", "down"] = "up" if up else "down"
        found.append(Fault(rule.feature, "range", outside, rule.max_out_of_range, direction))
    if not rule.may_be_constant and present.min() == present.max():
        found.append(Fault(rule.feature, "constant", 1.0, 1.0, "other"))
    elif rule.longest_run is not None and run > rule.longest_run:
        found.append(Fault(rule.feature, "stuck", run, rule.longest_run, "other"))
    odd = _odd(present, rule.categories)
    if odd > rule.max_odd:
        check: Check = "type" if rule.categories is None else "unseen"
        found.append(Fault(rule.feature, check, odd, rule.max_odd, "up"))
    if rule.median is not None and rule.tolerance is not None:
        shift = float(np.median(present)) - rule.median
        if abs(shift) > rule.tolerance:
            direction = "up" if shift > 0 else "down"
            found.append(Fault(rule.feature, "sensor_check", abs(shift), rule.tolerance, direction))
    return found
