"""The contract of a record log, for every backend: partitions, cursors, and replay."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from coalmine.clock import ManualClock
from coalmine.records import (
    BatchId,
    Consumer,
    Label,
    LabelCounts,
    LogUnavailableError,
    RecordLog,
    archive,
    open_log,
    read_all,
)

MakeBatch = Callable[..., pa.RecordBatch]

KEYS = [f"vehicle-{number}" for number in range(40)]


@pytest.fixture
def fill(partitioned: RecordLog, make_batch: MakeBatch) -> Callable[..., None]:
    """A batch of one row for each key, each from an emitter of its own."""

    def fill(round_: int = 0, **more: Any) -> None:
        for key in KEYS:
            batch = make_batch([f"{key}/{round_}"], **more)
            batch_id = BatchId(key, round_ + 1, round_ + 1)
            partitioned.append(batch, batch_id=batch_id, key=key)

    return fill


def _ids(batches: list[pa.RecordBatch]) -> list[str]:
    return [name for batch in batches for name in batch.column("request_id").to_pylist()]


def test_what_has_one_key_keeps_its_order_in_one_partition(
    partitioned: RecordLog, fill: Callable[..., None]
) -> None:
    for round_ in range(3):
        fill(round_)
    seen: dict[int, list[str]] = {}
    for partition in range(partitioned.partitions):
        read = partitioned.read(0, limit_rows=10_000, partition=partition)
        assert [offset for offset, _ in read] == list(range(1, len(read) + 1))
        assert partitioned.end_offset(partition) == len(read)
        seen[partition] = _ids([batch for _, batch in read])
    assert sorted(map(len, seen.values()))[0] > 0, "keys are spread"
    for key in KEYS:
        mine = [name for name in seen[partitioned.partition_of(key)] if name.startswith(f"{key}/")]
        assert mine == [f"{key}/{round_}" for round_ in range(3)]
    assert partitioned.stats().rows == 120


def test_without_a_key_a_model_is_in_one_partition(
    partitioned: RecordLog, make_batch: MakeBatch
) -> None:
    for number in range(1, 4):
        assert (
            partitioned.append(make_batch([f"r{number}"]), batch_id=BatchId("e", number, number))
            == number
        )
    home = partitioned.partition_of("ev-battery")
    assert [entry[:2] for entry in read_all(partitioned, {}, limit_rows=100)] == [
        (home, 1), (home, 2), (home, 3),
    ]  # fmt: skip


def test_a_row_sent_again_under_another_key_is_known_still(
    partitioned: RecordLog, make_batch: MakeBatch
) -> None:
    first, other = (
        KEYS[0],
        next(
            key
            for key in KEYS
            if partitioned.partition_of(key) != partitioned.partition_of(KEYS[0])
        ),
    )
    for key in (first, other):
        assert partitioned.append(make_batch(["a"]), batch_id=BatchId("e", 1, 1), key=key) == 1
    assert partitioned.end_offset(partitioned.partition_of(other)) == 0


def test_a_consumer_sees_everything_at_least_once(
    partitioned: RecordLog, fill: Callable[..., None]
) -> None:
    fill(0)
    consumer = Consumer(partitioned, "billing")
    first = consumer.poll(limit_rows=12)
    assert 0 < len(first) < len(KEYS)
    again = Consumer(partitioned, "billing")  # it died before it committed
    assert [entry[:2] for entry in again.poll(limit_rows=12)] == [entry[:2] for entry in first]
    again.commit()
    third = Consumer(partitioned, "billing")
    assert third.lag() == len(KEYS) - len(first)
    seen = _ids([entry.batch for entry in first])
    while entries := third.poll(limit_rows=7):
        seen += _ids([entry.batch for entry in entries])
        third.commit()
    assert sorted(seen) == sorted(f"{key}/0" for key in KEYS)
    assert third.lag() == 0
    fill(1)
    assert third.lag() == len(KEYS)


def test_cursors_have_names_and_outlive_the_process(
    log_url: str, partitioned: RecordLog, fill: Callable[..., None]
) -> None:
    fill()
    consumer = Consumer(partitioned, "a")
    consumer.poll()
    consumer.commit()
    partitioned.commit("b", {2: 1})
    partitioned.close()
    with contextlib.closing(open_log(log_url)) as again:
        assert again.partitions == 4
        assert again.committed("a") == consumer.positions
        assert again.committed("b") == {0: 0, 1: 0, 2: 1, 3: 0}
        assert again.committed("nobody") == dict.fromkeys(range(4), 0)
    with pytest.raises(LogUnavailableError, match="closed"):
        partitioned.commit("a", {0: 1})


def test_replay_from_an_offset_and_from_a_time(
    partitioned: RecordLog, fill: Callable[..., None]
) -> None:
    for round_ in range(5):
        fill(round_, time=1000.0 + 10 * round_)
    consumer = Consumer(partitioned, "x")
    while consumer.poll():
        consumer.commit()
    consumer.seek_time(1020.0)
    names = _ids([entry.batch for entry in consumer.poll()])
    assert sorted(names) == sorted(f"{key}/{round_}" for key in KEYS for round_ in (2, 3, 4))
    consumer.seek({0: 0})
    replayed = consumer.poll()
    assert {entry.partition for entry in replayed} == {0}
    assert [entry.offset for entry in replayed] == list(range(1, partitioned.end_offset(0) + 1))
    consumer.seek_time(9999.0)
    assert consumer.poll() == []
    consumer.seek_time(0.0)
    assert len(consumer.poll()) == 5 * len(KEYS)


def test_late_records_do_not_hide_earlier_ones(
    log: RecordLog, append: Any, make_batch: Any
) -> None:
    for at in (10.0, 30.0, 5.0, 40.0):
        append(make_batch([f"t{at:g}"], time=at))
    assert log.offset_before(20.0) == 1
    assert log.offset_before(31.0) == 3
    assert log.offset_before(0.0) == 0
    assert log.offset_before(40.5) == 4


@pytest.mark.parametrize("partition", [-1, 4])
def test_a_partition_that_is_not_there(partitioned: RecordLog, partition: int) -> None:
    for call in (
        lambda: partitioned.read(0, limit_rows=1, partition=partition),
        lambda: partitioned.end_offset(partition),
        lambda: partitioned.offset_before(0.0, partition=partition),
        lambda: partitioned.commit("x", {partition: 1}),
    ):
        with pytest.raises(ValueError, match=f"partition {partition}: the log has 4, from 0"):
            call()


def test_the_number_of_partitions_is_fixed(log_url: str, partitioned: RecordLog) -> None:
    with pytest.raises(ValueError, match="has 4 partitions, not 2"):
        open_log(f"{log_url}?partitions=2")
    open_log(f"{log_url}?partitions=4").close()
    for query in ("partitions=0", "partitions=x", "partitions=", "parts=2", "partitions=5000"):
        with pytest.raises(ValueError, match="partitions=N, from 1 to 4096"):
            open_log(f"{log_url}?{query}")


def test_retention_takes_the_oldest_of_all_partitions(
    partitioned: RecordLog, fill: Callable[..., None], clock: ManualClock
) -> None:
    for round_ in range(4):
        fill(round_, time=clock.time())
        clock.advance(100.0)
    half = partitioned.stats().bytes // 2
    assert partitioned.expire(max_bytes=half, up_to={}) == 0
    assert partitioned.expire(max_bytes=half) == 80
    left = _ids([entry.batch for entry in read_all(partitioned, {}, limit_rows=10_000)])
    assert sorted(left) == sorted(f"{key}/{round_}" for key in KEYS for round_ in (2, 3))
    assert partitioned.expire(max_age=150.0) == 40
    ends = {number: partitioned.end_offset(number) for number in range(4)}
    assert partitioned.expire(max_bytes=0, up_to=ends) == 40
    assert sum(ends.values()) == 160
    assert partitioned.stats().rows == partitioned.stats().bytes == 0


def test_labels_find_records_of_every_partition(
    partitioned: RecordLog, fill: Callable[..., None]
) -> None:
    fill()
    labels = [Label(f"{key}/0", "1", 5.0) for key in KEYS]
    assert partitioned.put_labels(labels) == LabelCounts(accepted=len(KEYS))
    truth = partitioned.labelled().column("true_label").to_pylist()
    assert truth == ["internal_short"] * len(KEYS)


def test_the_archive_has_every_partition_once(
    partitioned: RecordLog, fill: Callable[..., None], tmp_path: Path
) -> None:
    ends: dict[int, int] = {}
    for round_ in range(2):
        fill(round_)
        ends = archive(partitioned, tmp_path / "archive", limit_rows=9)
    assert ends == {number: partitioned.end_offset(number) for number in range(4)}
    frame = pd.read_parquet(tmp_path / "archive", engine="pyarrow")
    assert sorted(frame["request_id"]) == sorted(f"{key}/{n}" for key in KEYS for n in range(2))


def test_a_log_of_before_there_were_partitions_is_taken_over(
    log_url: str, make_batch: MakeBatch, tmp_path: Path
) -> None:
    """As the release before this one left it: batches by offset, emitters with the last of it."""
    with contextlib.closing(open_log(log_url)) as log:
        for number in (1, 2, 3):
            log.append(make_batch([f"r{number}"]), batch_id=BatchId("e", number, number))
    path = log_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript("""
            ALTER TABLE batches RENAME TO new;
            CREATE TABLE batches (
                offset INTEGER PRIMARY KEY AUTOINCREMENT, schema_id INTEGER NOT NULL,
                model_version TEXT NOT NULL, arm TEXT NOT NULL, rows INTEGER NOT NULL,
                bytes INTEGER NOT NULL, min_time INTEGER NOT NULL, max_time INTEGER NOT NULL,
                appended_at REAL NOT NULL, requests BLOB NOT NULL, body BLOB NOT NULL
            );
            INSERT INTO batches SELECT * FROM new;
            DROP TABLE new; DROP TABLE partitions; DROP TABLE cursors;
            ALTER TABLE emitters RENAME COLUMN last_key TO last_offset;
            DELETE FROM batches WHERE offset = 3;
        """)
    with contextlib.closing(open_log(log_url)) as log:
        assert (log.partitions, log.end_offset()) == (1, 3)
        assert [offset for offset, _ in log.read(0, limit_rows=9)] == [1, 2]
        assert log.append(make_batch(["r3"]), batch_id=BatchId("e", 3, 3)) == 3, "known"
        assert log.append(make_batch(["r4"]), batch_id=BatchId("e", 4, 4)) == 4
        assert log.offset_before(0.0) == 0
