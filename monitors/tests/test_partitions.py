"""Windows counted in parts, wherever and in whatever order, are judged as those of one process."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from coalmine.modeldir import Column
from coalmine_monitors.drift import Reference, build_reference
from coalmine_monitors.drift._population import Population
from coalmine_monitors.drift._tumbling import Tumbling
from coalmine_monitors.sketches import Quantiles, WindowSketch

WINDOW = 400
WINDOWS = 8
COLUMNS = (
    Column(name="a"),
    Column(name="b"),
    Column(name="mode", type="categorical", categories=("eco", "sport", "tow")),
)


def _rows(count: int, *, moved: bool, seed: int) -> np.ndarray:
    """Numbers with missing ones, a constant now and then, and categories, an unknown one too."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack(
        [
            rng.normal(size=count),
            np.round(rng.exponential(size=count), 1),
            rng.integers(0, 4, count),
        ]
    )
    rows[rng.random(rows.shape) < 0.03] = np.nan
    if moved:
        rows[count // 2 :, 0] += 1.5
    return rows


@pytest.fixture(scope="module")
def reference() -> Reference:
    rows = _rows(40 * WINDOW, moved=False, seed=1)
    table = pa.table({column.name: rows[:, i] for i, column in enumerate(COLUMNS)})
    return build_reference(table, COLUMNS, window_rows=WINDOW, min_effect=0.1)


def _population(reference: Reference) -> Population:
    return Population(reference, tumbling=Tumbling(WINDOW), run_length=100)


def _verdict(population: Population) -> list[list[float]]:
    parts = (population.effect, population.evidence, population.score, population.calm)
    return [np.asarray(values).tolist() for values in parts]


@pytest.mark.parametrize("partitions", [2, 7, 200])
@pytest.mark.parametrize("seed", range(4))
def test_partitions_merge_to_the_verdict_of_one_process(
    reference: Reference, partitions: int, seed: int
) -> None:
    rows = _rows(WINDOWS * WINDOW, moved=True, seed=seed)
    at = np.arange(len(rows), dtype=np.float64)
    rng = np.random.default_rng(seed)
    one, merged = _population(reference), _population(reference)
    for window in range(WINDOWS):
        cut = slice(window * WINDOW, (window + 1) * WINDOW)
        one.update(rows[cut], at[cut])
        # Rows go to partitions at random, partitions come in any order, some through another's.
        owner = rng.integers(0, partitions, WINDOW)
        parts = [
            merged.empty().after(rows[cut][owner == each], at[cut][owner == each])
            for each in rng.permutation(partitions)
        ]
        half = len(parts) // 2
        for part in (_sum(parts[:half], merged.empty()), _sum(parts[half:], merged.empty())):
            # As it would travel: JSON keeps everything.
            travelled = merged.empty().restored(json.loads(json.dumps(part.state())))
            merged.add(travelled)
        merged.judge()
        assert _verdict(merged) == _verdict(one)
    assert merged.windows == one.windows == WINDOWS
    assert one.score[0] > one.threshold[0], "there was something to find"


def _sum(parts: list[WindowSketch], empty: WindowSketch) -> WindowSketch:
    total = empty
    for part in parts:
        total = total + part
    return total


def test_parts_without_rows_change_nothing(reference: Reference) -> None:
    rows = _rows(WINDOW, moved=False, seed=3)
    at = np.arange(WINDOW, dtype=np.float64)
    empty = _population(reference).empty()
    part = empty.after(rows, at)
    assert (empty + part + empty).state() == part.state() == part.after(rows[:0], at[:0]).state()


def test_quantiles_merge_within_their_error() -> None:
    rng = np.random.default_rng(5)
    values = rng.lognormal(size=40_000)
    merged = Quantiles()
    for part in np.array_split(values, 200):
        each = Quantiles()
        each.update(part)
        merged.merge(Quantiles.from_text(each.to_text()))
    assert merged.rows == len(values)
    ranks = (0.01, 0.25, 0.5, 0.75, 0.99)
    found = np.searchsorted(np.sort(values), merged.at(ranks)) / len(values)
    assert np.abs(found - ranks).max() < 0.02
