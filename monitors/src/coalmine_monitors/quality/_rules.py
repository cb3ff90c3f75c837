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

Check = Literal["missing", "range", "constant", "sensor_check"]

#: Share of values out of range that is a fault: one odd row in a window is not a broken sensor.
MAX_OUT_OF_RANGE = 0.01
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
            column.name,
            specs.get(column.name) or FeatureSpec(name=column.name),
            None if past is None else past[:, index],
            window_rows=window_rows,
        )
        for index, column in enumerate(columns)
    )


def _rule(name: str, spec: FeatureSpec, past: Floats | None, *, window_rows: int) -> Rule:
    windows = [] if past is None else _windows(past, window_rows)
    max_missing = spec.max_missing
    if "max_missing" not in spec.model_fields_set:
        shares = [float(np.isnan(window).mean()) for window in windows]
        max_missing = max([max_missing, *(_SLACK * share for share in shares)])
    present = [window[~np.isnan(window)] for window in windows]
    outside = [_outside(window, spec.range) for window in present if window.size]
    constant = any(window.size == 0 or window.min() == window.max() for window in present)
    known = past is not None and bool(np.isfinite(past).any())
    return Rule(
        feature=name,
        sensor=spec.sensor,
        max_missing=max_missing,
        range=spec.range,
        max_out_of_range=max([MAX_OUT_OF_RANGE, *(_SLACK * share for share in outside)]),
        may_be_constant=constant or not present,
        median=float(np.nanmedian(past)) if past is not None and known else None,
        tolerance=spec.tolerance,
    )


def _windows(past: Floats, window_rows: int) -> list[Floats]:
    count = max(len(past) // window_rows, 1)
    return (
        list(past[: count * window_rows].reshape(count, -1)) if len(past) >= window_rows else [past]
    )


def _outside(values: Floats, limits: tuple[float, float] | None) -> float:
    if limits is None or not values.size:
        return 0.0
    return float(((values < limits[0]) | (values > limits[1])).mean())


def faults(rule: Rule, values: Floats) -> list[Fault]:
    """The limits that one window's `values` [rows] of a feature break.

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
    if rule.median is not None and rule.tolerance is not None:
        shift = float(np.median(present)) - rule.median
        if abs(shift) > rule.tolerance:
            direction = "up" if shift > 0 else "down"
            found.append(Fault(rule.feature, "sensor_check", abs(shift), rule.tolerance, direction))
    return found
