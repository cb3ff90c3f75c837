"""Labels: late, early, repeated, corrected, unknown; and the join."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from coalmine.clock import ManualClock
from coalmine.records import Label, LabelCounts, RecordLog

MakeBatch = Callable[..., pa.RecordBatch]


def _truth(log: RecordLog, **more: Any) -> list[tuple[str, str, str]]:
    table = log.labelled(**more)
    keys = ("request_id", "arm", "true_label")
    return list(zip(*(table.column(key).to_pylist() for key in keys), strict=True))


def test_each_delivery_has_a_defined_result(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a", "b"]))
    fault, normal = "internal_short", "normal"
    assert log.put_labels([Label("a", fault, 1.0), Label("?", fault, 1.0)]) == LabelCounts(
        accepted=1, unknown=1
    )
    assert log.put_labels([Label("a", fault, 2.0)]) == LabelCounts(repeated=1)
    assert log.put_labels([Label("a", normal, 3.0)]) == LabelCounts(corrected=1)
    assert log.put_labels([Label("a", fault, 1.0)]) == LabelCounts(repeated=1), "late retry"
    assert log.put_labels([Label("a", fault, 3.0)]) == LabelCounts(corrected=1), "same time: later"
    assert log.put_labels([]) == LabelCounts()
    assert log.stats().labels == 4
    assert _truth(log) == [("a", "stable", fault)]


def test_within_one_delivery_order_counts(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a"]))
    labels = [Label("a", "normal", 1.0), Label("a", "normal", 1.0), Label("a", "0", 2.0)]
    assert log.put_labels([*labels, Label("a", "1", 2.0)]) == LabelCounts(
        accepted=1, repeated=2, corrected=1
    )
    assert _truth(log) == [("a", "stable", "internal_short")]


def test_a_label_may_come_before_its_record(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    assert log.put_labels([Label("a", "2", 1.0)]) == LabelCounts(unknown=1)
    assert _truth(log) == []
    append(make_batch(["a"]))
    assert _truth(log) == [("a", "stable", "cooling_failure")], "the index too finds its name"
    assert log.put_labels([Label("a", "normal", 1.0)]) == LabelCounts(corrected=1)


def test_consumers_follow_labels_with_their_own_offset(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a", "b"]))
    log.put_labels([Label("a", "normal", 5.0), Label("b", "normal", 4.0)])
    log.put_labels([Label("a", "internal_short", 6.0)])
    first = log.labels_after(0, 2)
    assert first == [Label("a", "normal", 5.0, 0, 1), Label("b", "normal", 4.0, 0, 2)]
    assert log.labels_after(first[-1].offset, 10) == [Label("a", "internal_short", 6.0, 0, 3)]
    assert log.labels_after(3, 10) == []


def test_labels_are_of_a_row_of_a_request_and_join_every_arm(
    log: RecordLog, append: Any, make_record: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a"], arm="stable", version="3"))
    append(make_batch(["a"], arm="shadow", version="4"))
    log.put_labels([Label("a", "normal", 1.0, row=0), Label("a", "internal_short", 1.0, row=1)])
    assert _truth(log) == [("a", "stable", "normal"), ("a", "shadow", "normal")]
    assert _truth(log, arms=["stable", "canary"]) == [("a", "stable", "normal")]
    assert _truth(log, arms=[]) == []
    assert _truth(log, model_version="4") == [("a", "shadow", "normal")]


def test_the_join_is_bounded_in_time_and_ordered_by_it(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    for time in (30.0, 10.0, 20.0):
        append(make_batch([f"t{time:g}"], time=time))
    log.put_labels([Label(f"t{time}", "normal", 1.0) for time in (10, 20, 30)])
    assert [name for name, *_ in _truth(log)] == ["t10", "t20", "t30"]
    assert [name for name, *_ in _truth(log, since=20.0)] == ["t20", "t30"]
    assert [name for name, *_ in _truth(log, until=20.0)] == ["t10"]
    assert _truth(log, since=15.0, until=15.0) == []
    assert len(_truth(log, since=-1e300, until=float("inf"))) == 3
    assert [log.offset_before(time) for time in (-1e300, 1e300)] == [0, 3]


def test_versions_with_different_columns_join_into_one_table(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    append(make_batch(["a"], version="1", features=2))
    append(make_batch(["b"], version="2", features=3, time=2000.0))
    log.put_labels([Label("a", "normal", 1.0), Label("b", "normal", 1.0)])
    table = log.labelled()
    assert table.column("f2").null_count == 1
    assert table.column("true_label").to_pylist() == ["normal", "normal"]
    assert log.labelled("1").num_columns == table.num_columns - 1


def test_an_empty_join_still_has_columns(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    assert {"request_id", "true_label"} <= set(log.labelled().column_names)
    append(make_batch(["a"]))
    assert {"f0", "label", "true_label"} <= set(log.labelled().column_names)
    assert log.labelled().num_rows == 0


def test_many_rows_join_in_pieces(log: RecordLog, append: Any, make_batch: MakeBatch) -> None:
    names = [f"r{i}" for i in range(3000)]
    for start in range(0, 3000, 1000):
        append(make_batch(names[start : start + 1000], features=1))
    labels = [Label(name, "normal", 1.0) for name in names[::3]]
    assert log.put_labels(labels) == LabelCounts(accepted=1000)
    table = log.labelled()
    assert sorted(table.column("request_id").to_pylist()) == sorted(names[::3])


def test_strange_request_ids_are_ids_like_others(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    names = ["", "é", "'; DROP TABLE labels; --", "a\x00b", "x" * 5000, '"\\u0041']
    append(make_batch(names))
    labels = [Label(name, "normal", 1.0) for name in names]
    assert log.put_labels(labels) == LabelCounts(accepted=len(names))
    assert sorted(name for name, *_ in _truth(log)) == sorted(names)


@pytest.mark.parametrize("days", [0.5, 3.0])
def test_labels_leave_a_day_after_the_last_batch_they_could_belong_to(
    days: float, log: RecordLog, append: Any, make_batch: MakeBatch, clock: ManualClock
) -> None:
    append(make_batch(["old"]))
    log.put_labels([Label("old", "normal", 1.0)])
    clock.advance(days * 86_400)
    append(make_batch(["new"]))
    log.put_labels([Label("new", "normal", 1.0)])
    log.expire(max_bytes=log.stats().bytes - 1)
    assert log.stats().labels == (2 if days < 1 else 1)
    assert _truth(log) == [("new", "stable", "normal")]
