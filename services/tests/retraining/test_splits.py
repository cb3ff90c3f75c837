"""Nothing that judges a model has taught it: not the row, not its upload, not its vehicle."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalmine.retraining import NotEnoughData, learning


def table(times: list[int], groups: list[int], labelled: list[bool]) -> pa.Table:
    label = ["ok" if is_known else None for is_known in labelled]
    return pa.table(
        {
            "true_label": pa.array(label, pa.string()),
            "time": pa.array(times, pa.float64()),
            "group": [f"u{group}" for group in groups],
        }
    )


ROW = st.tuples(st.integers(0, 50), st.integers(0, 12), st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=60))
def test_recent_rows_are_split_in_time_and_by_upload(rows: list[tuple[int, int, bool]]) -> None:
    given_rows = table(*map(list, zip(*rows, strict=True)))
    if not any(known for _, _, known in rows):
        with pytest.raises(NotEnoughData):
            learning.split_recent(given_rows)
        return
    found = learning.split_recent(given_rows)
    assert found.num_rows == len(rows)
    parts = [learning.having(found, split=name) for name in ("train", "tune", "holdout")]
    for early, late in ((0, 1), (0, 2), (1, 2)):
        if parts[early].num_rows and parts[late].num_rows:
            oldest = min(parts[late]["time"].to_pylist())
            assert max(parts[early]["time"].to_pylist()) <= oldest
        assert not set(parts[early]["group"].to_pylist()) & set(parts[late]["group"].to_pylist())
    for part in parts:
        assert part["true_label"].null_count == 0


FLEET_ROW = st.tuples(st.integers(0, 100), st.integers(0, 9))


@settings(max_examples=200, deadline=None)
@given(st.lists(FLEET_ROW, min_size=1, max_size=60), st.lists(FLEET_ROW, min_size=1, max_size=60))
def test_a_vehicle_that_judges_has_taught_nothing(
    past: list[tuple[int, int]], now: list[tuple[int, int]]
) -> None:
    """Also where the past and the present overlap in time, as a file of telemetry may."""

    def rows(of: list[tuple[int, int]]) -> tuple[pa.Table, np.ndarray]:
        times = [time for time, _ in of]
        vehicle = np.array([f"v{name}" for _, name in of], dtype=object)
        return table(times, [name for _, name in of], [True] * len(of)), vehicle

    (history, history_of), (recent, recent_of) = rows(past), rows(now)
    try:
        history, recent = learning.split_by_vehicle(
            history, recent, history_of=history_of, recent_of=recent_of
        )
    except NotEnoughData as error:
        assert "vehicles leave no row to" in str(error)  # noqa: PT017  # both ends are right
        return
    judge = np.array(recent["split"].to_pylist()) == "holdout"
    split = np.array(history["split"].to_pylist())
    teachers = {*history_of[split == "train"], *history_of[split == "tune"]}
    assert not set(recent_of[judge]) & teachers
    assert not set(history_of[split == "train"]) & set(history_of[split == "tune"])
    since = recent["time"].to_numpy()[judge].min()
    assert (history["time"].to_numpy()[np.isin(split, ("train", "tune"))] <= since).all()
    assert set(recent["split"].to_pylist()) <= {"holdout", "aside"}


def test_the_part_of_a_vehicle_does_not_depend_on_the_order_of_its_rows() -> None:
    names = np.array([f"v{number}" for number in range(40)], dtype=object)
    rows = table(list(range(40)), list(range(40)), [True] * 40)
    later = rows.set_column(1, "time", pa.array(np.arange(40.0) + 100))
    _, recent = learning.split_by_vehicle(rows, later, history_of=names, recent_of=names)
    turned = np.arange(39, -1, -1)
    _, again = learning.split_by_vehicle(
        rows.take(turned), later.take(turned), history_of=names[turned], recent_of=names[turned]
    )
    assert again["split"].to_pylist() == recent["split"].to_pylist()[::-1]
