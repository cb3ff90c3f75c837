"""Many windows are judged at once, to the last bit as they are one by one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalmine.modeldir import Column
from coalmine.spec import SegmentColumnSpec
from coalmine_monitors.drift import (
    DriftDetector,
    Reference,
    Segments,
    build_reference,
    build_segments,
    watch_together,
)
from coalmine_monitors.multivariate._curve import Curve
from coalmine_monitors.sketches import Histograms

WINDOW = 150
COLUMNS = (
    *(Column(name=f"x{index}") for index in range(4)),
    Column(name="mode", type="categorical", categories=("eco", "sport", "tow")),
)
TOGETHER = ("pca", "domain_classifier", "mmd")
BY_TIME = 60.0


def rows(count: int, *, seed: int, moved: bool = False) -> Any:
    """Numbers that hang together, rounded ones, missing ones, and categories; and their times."""
    rng = np.random.default_rng(seed)
    values = np.column_stack([rng.standard_normal((count, 4)), rng.integers(0, 4, count)])
    values[:, 1] += values[:, 0]
    values[:, 2] = np.round(values[:, 2], 1)
    values[rng.random(values.shape) < 0.02] = np.nan
    if moved:
        values[count // 2 :, 0] += 1.5
        values[count // 3 : count // 2, 3] = np.nan
    return values, np.cumsum(rng.exponential(0.3, count))


@pytest.fixture(scope="module", params=["count", "time", "segments"])
def made(request: pytest.FixtureRequest) -> tuple[Reference, Segments, float | None]:
    """A reference, with windows by rows or by time."""
    seconds = BY_TIME if request.param == "time" else None
    values, at = rows(30 * WINDOW, seed=1)
    names = ("eco", "sport", "tow", "unknown")
    table = pa.table(
        {
            **{column.name: values[:, place] for place, column in enumerate(COLUMNS[:-1])},
            "mode": [None if np.isnan(x) else names[int(x)] for x in values[:, -1]],
            "time": at,
        }
    )
    known: dict[str, Any] = {"window_rows": WINDOW, "min_effect": 0.1, "seconds": seconds}
    segments = Segments()
    if request.param == "segments":
        by = [(SegmentColumnSpec(feature="mode"), COLUMNS[-1])]
        segments = build_segments(table, COLUMNS, by, **known)
    extend = watch_together(COLUMNS, names=TOGETHER, min_effect=0.1)
    return build_reference(table, COLUMNS, extend=extend, **known), segments, seconds


def judged(made: Any, values: Any, at: Any, cuts: list[int]) -> tuple[list[Any], Any]:
    """What was found in each window by a detector that gets pieces that end at `cuts`."""
    reference, segments, seconds = made
    detector = DriftDetector(
        reference, window_rows=WINDOW, run_length=50, seconds=seconds, segments=segments
    )
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(at)], strict=True):
        for taken in detector.feed(values[start:end], at[start:end]):
            found.append((start + taken, detector.finding, json.dumps(detector.report)))
    return found, detector.state()


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 12 * WINDOW), max_size=4),
    order=st.sampled_from("CF"),
)
def test_pieces_of_any_size_are_judged_to_the_last_bit_as_windows_one_by_one(
    made: Any, seed: int, cuts: list[int], order: Any
) -> None:
    values, at = rows(12 * WINDOW, seed=seed, moved=True)
    tiny = list(range(40, len(at), 40))
    alone, state = judged(made, values, at, tiny)
    together, after = judged(made, np.asarray(values, order=order), at, sorted(cuts))
    assert together == alone
    assert after == state
    assert any(finding.detected for _, finding, _ in alone)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=60),
    st.sampled_from([0.0, 1e9, -1e-9, 1e300]),
)
def test_values_that_rounding_makes_equal_to_an_edge_are_counted_as_they_are(
    drawn: list[float], middle: float
) -> None:
    step = np.spacing(middle)
    edges = middle + np.array([-2.0, 0.0, 1.0, 3.0]) * max(step, 1e-12)
    near = middle + np.arange(-4, 5) * max(step, 1e-12)
    with np.errstate(over="ignore"):
        values = np.concatenate([drawn, near, near.astype(np.float32)])
    counts = Histograms(edges=(edges,)).count(values[:, None])
    present = values[~np.isnan(values)]
    expected = np.bincount(np.searchsorted(edges, present, side="right"), minlength=5)
    assert counts[0].tolist() == expected.tolist()


@pytest.mark.parametrize("middle", [0.0, 20.0, 1e9])
def test_a_curve_is_what_interpolation_gives(middle: float) -> None:
    rng = np.random.default_rng(8)
    past = middle + rng.lognormal(size=5000)
    knots = np.quantile(past, np.arange(257) / 256)
    scores = np.linspace(-3, 3, 257)
    values = np.append(middle + rng.lognormal(size=2000), [middle - 1e6, middle + 1e300])
    exact = np.interp(values, knots, scores)
    assert np.abs(Curve.through(knots, scores).at(values) - exact).max() < 0.02
    few = Curve.through(middle + np.arange(5.0), np.arange(5.0))
    assert np.abs(few.at(middle + np.arange(5.0)) - np.arange(5.0)).max() < 1e-6
