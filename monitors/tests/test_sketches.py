"""Sketches of parts are the sketch of the whole, and stay small."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalmine_monitors.sketches import (
    SAMPLE_ROWS,
    Histograms,
    Quantiles,
    WindowSketch,
    fine_edges,
    numeric_edges,
    pooled,
)


def histograms(values: np.ndarray) -> tuple[Histograms, Histograms]:
    coarse = tuple(numeric_edges(column) for column in values.T)
    fine = tuple(fine_edges(column, edge) for column, edge in zip(values.T, coarse, strict=True))
    return Histograms(edges=fine), Histograms(edges=coarse)


VALUES = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=60), st.integers(0, 60))
def test_counts_are_those_of_each_value_among_the_edges(
    rows: list[tuple[float, float]], cut: int
) -> None:
    values = np.array(rows, dtype=np.float64)
    rng = np.random.default_rng(41)
    fine, coarse = histograms(np.column_stack([rng.normal(size=500), rng.integers(0, 4, 500)]))
    counts = fine.count(values[:cut]) + fine.count(values[cut:])
    for index, edges in enumerate(fine.edges):
        present = values[:, index][~np.isnan(values[:, index])]
        place = np.searchsorted(edges, present, side="right")
        assert np.array_equal(
            counts[index, : edges.size + 1], np.bincount(place, minlength=edges.size + 1)
        )
    assert np.array_equal(pooled(counts, fine.pooling(coarse)), coarse.count(values))


@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_of_any_sizes_are_counted_at_once_as_each_by_itself(order: Any) -> None:
    rng = np.random.default_rng(44)
    past = rng.normal(size=(3000, 5))
    past[:, 3] = np.round(past[:, 3], 1)
    fine, _ = histograms(past)
    values = rng.normal(size=(40_000, 5)) * 1.3
    values[:, 3] = np.round(values[:, 3], 1)
    values[rng.random(values.shape) < 0.02] = np.nan
    values[5_000:9_000, 1] = np.nan
    values[::97, 2] = fine.edges[2][7]
    values[[3, 4, 5], 0] = [np.inf, -np.inf, 1e300]
    values = np.asarray(values, order=order)
    for ends in (
        [500 * number for number in range(1, 81)],
        [1, 2, 30, 31, 4_000, 9_000, 20_000, 40_000],
    ):
        counts = fine.counts(values, ends)
        for part, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            for index, edges in enumerate(fine.edges):
                column = values[start:end, index]
                place = np.searchsorted(edges, column[~np.isnan(column)], side="right")
                expected = np.bincount(place, minlength=fine.width)
                assert counts[part, index].tolist() == expected.tolist()


def test_two_hundred_parts_are_one_window() -> None:
    rng = np.random.default_rng(42)
    values, at = rng.normal(size=(20_000, 3)), np.arange(20_000.0)
    fine, _ = histograms(values)
    empty = WindowSketch.empty(fine)
    owner = rng.integers(0, 200, len(values))
    parts = [empty.after(values[owner == part], at[owner == part]) for part in range(200)]
    whole, merged = empty.after(values, at), empty
    for part in parts:
        merged = merged + empty.restored(json.loads(json.dumps(part.state())))
    assert merged.state() == whole.state()


def test_a_sample_is_even_and_bounded_whatever_pieces_rows_come_in() -> None:
    values = np.arange(5000.0)[:, None]
    fine, _ = histograms(values)
    samples = []
    for piece in (5000, 700, 1):
        sketch = WindowSketch.empty(fine, sampled=1)
        for start in range(0, 5000, piece):
            part = values[start : start + piece]
            sketch = sketch.after(part, part[:, 0])
        assert sketch.sample is not None
        samples.append(sketch.sample[:, 0].tolist())
    assert samples[0] == samples[1] == samples[2]
    assert SAMPLE_ROWS / 2 < len(samples[0]) <= SAMPLE_ROWS
    assert len(set(np.diff(samples[0]))) == 1


def test_quantiles_of_two_hundred_parts_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(43)
    values = rng.lognormal(size=100_000)
    sketches = []
    for part in np.array_split(values, 200):
        sketch = Quantiles()
        sketch.update(np.append(part, [np.nan, np.inf]))
        sketches.append(Quantiles.from_text(sketch.to_text()))
    merged = Quantiles()
    merged.merge(*sketches)
    ranks = [0.05, 0.25, 0.5, 0.75, 0.95]
    found = np.searchsorted(np.sort(values), merged.at(ranks)) / len(values)
    assert found == pytest.approx(ranks, abs=0.02)
    assert merged.rows == len(values)
    assert len(merged.to_text()) < 10_000
    assert np.isnan(Quantiles().at([0.5])).all()
