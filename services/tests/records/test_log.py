"""The contract of a record log, for every backend: appending, reading, retention."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coalmine.clock import ManualClock
from coalmine.records import (
    BatchId,
    LogUnavailableError,
    MalformedBatchError,
    NewBatch,
    RecordLog,
    Retention,
    open_log,
)

MakeBatch = Callable[..., pa.RecordBatch]
ReadIds = Callable[[RecordLog], list[tuple[str, int]]]


def _names(first: int, last: int) -> list[str]:
    return [f"r{number}" for number in range(first, last + 1)]


def _ids(log: RecordLog, read_ids: ReadIds) -> list[str]:
    return [name for name, _ in read_ids(log)]


def test_a_batch_comes_back_as_it_was(log: RecordLog, make_batch: MakeBatch) -> None:
    batch = make_batch(["a", "b"])
    assert log.end_offset() == 0
    offset = log.append(batch, batch_id=BatchId("e", 1, 2))
    assert log.end_offset() == offset >= 1
    ((read_offset, read),) = log.read(0, limit_rows=1)
    assert read_offset == offset
    assert read.equals(batch)
    assert read.schema.equals(batch.schema, check_metadata=True)
    assert log.read(offset, limit_rows=1) == []


def test_reading_goes_on_from_an_offset_in_whole_batches(
    log: RecordLog, append: Any, make_batch: MakeBatch
) -> None:
    offsets = [append(make_batch([f"{n}-{i}" for i in range(10)])) for n in range(5)]
    assert offsets == sorted(set(offsets))
    first = log.read(0, limit_rows=15)
    assert [offset for offset, _ in first] == offsets[:2]
    rest = log.read(first[-1][0], limit_rows=1000)
    assert [offset for offset, _ in rest] == offsets[2:]


def test_reading_one_version(log: RecordLog, append: Any, make_batch: MakeBatch) -> None:
    for version, features in (("1", 24), ("2", 3), ("1", 24)):
        append(make_batch(["x"], version=version, features=features))
    assert [offset for offset, _ in log.read(0, limit_rows=99, model_version="1")] == [1, 3]
    ((_, batch),) = log.read(0, limit_rows=99, model_version="2")
    assert batch.num_columns == 21
    assert log.read(0, limit_rows=99, model_version="9") == []


def test_a_batch_sent_again_is_not_stored_again(
    log: RecordLog, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    first = log.append(make_batch(_names(1, 4)), batch_id=BatchId("e", 1, 4))
    again = log.append(make_batch(_names(1, 4)), batch_id=BatchId("e", 1, 4))
    part = log.append(make_batch(_names(2, 3)), batch_id=BatchId("e", 2, 3))
    assert first == again == part
    assert _ids(log, read_ids) == _names(1, 4)


def test_of_an_overlapping_batch_only_the_new_rows_are_stored(
    log: RecordLog, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    log.append(make_batch(_names(1, 4)), batch_id=BatchId("e", 1, 4))
    log.append(make_batch(_names(3, 9)), batch_id=BatchId("e", 3, 9))
    log.append(make_batch(_names(1, 12)), batch_id=BatchId("e", 1, 12))
    assert _ids(log, read_ids) == _names(1, 12)
    stats = log.stats()
    assert (stats.rows, stats.batches) == (12, 3)
    assert (stats.emitters["e"].last_seq, stats.emitters["e"].rows) == (12, 12)


def test_emitters_are_numbered_apart_and_a_gap_is_accepted(
    log: RecordLog, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    log.append(make_batch(["a"]), batch_id=BatchId("e1", 1, 1))
    log.append(make_batch(["b"]), batch_id=BatchId("e2", 1, 1))
    log.append(make_batch(["c"]), batch_id=BatchId("e1", 5, 5), dropped=3)
    log.append(make_batch(["c"]), batch_id=BatchId("e1", 5, 5), dropped=2)  # a late answer
    assert _ids(log, read_ids) == ["a", "b", "c"]
    state = log.stats().emitters["e1"]
    assert (state.last_seq, state.rows, state.dropped) == (5, 2, 3)


def test_rows_that_were_overtaken_are_stored_once(
    log_url: str, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    def deliver(log: RecordLog, first: int, last: int) -> None:
        log.append(make_batch(_names(first, last)), batch_id=BatchId("e", first, last))

    with contextlib.closing(open_log(log_url)) as log:
        for first, last in ((9, 12), (17, 20), (3, 4), (11, 18)):
            deliver(log, first, last)
        stored = [*range(9, 13), *range(17, 21), 3, 4, *range(13, 17)]
        assert _ids(log, read_ids) == [f"r{number}" for number in stored]
    with contextlib.closing(open_log(log_url)) as log:
        deliver(log, 1, 22)  # all of them, with what was passed over and what is new
        deliver(log, 1, 22)
        stored += [1, 2, *range(5, 9), 21, 22]
        assert _ids(log, read_ids) == [f"r{number}" for number in stored]
        state = log.stats().emitters["e"]
        assert (state.last_seq, state.rows, log.stats().rows) == (22, 22, 22)


def test_several_batches_go_in_one_go_and_a_wrong_one_goes_alone(
    log: RecordLog, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    other = make_batch(["z"], version="4", features=3)
    results = log.append_all(
        [
            NewBatch(make_batch(_names(1, 2)), BatchId("e", 1, 2), dropped=1),
            NewBatch(make_batch(["x"]), BatchId("e", 3, 9)),
            NewBatch(other, BatchId("f", 1, 1)),
            NewBatch(make_batch(_names(1, 4)), BatchId("e", 1, 4)),
            NewBatch(make_batch(_names(3, 3)), BatchId("e", 3, 3)),
        ]
    )
    assert isinstance(results[1], MalformedBatchError)
    assert [result for result in results if isinstance(result, int)] == [1, 2, 3, 3]
    assert _ids(log, read_ids) == ["r1", "r2", "z", "r3", "r4"]
    stats = log.stats()
    assert (stats.rows, stats.batches) == (5, 3)
    assert (stats.emitters["e"].last_seq, stats.emitters["e"].dropped) == (4, 1)
    log.close()
    closed = log.append_all([NewBatch(make_batch(["y"]), BatchId("g", 1, 1))])
    assert isinstance(closed[0], LogUnavailableError)
    assert log.append_all([]) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda batch: batch.slice(0, 0), "no rows"),
        (lambda batch: batch.drop_columns(["time"]), "column 'time' must be there once, as time"),
        (lambda batch: batch.slice(1), "e:1-3 has 3 rows, the batch 2"),
        (
            lambda batch: batch.set_column(3, "model_version", pa.array(["1", "2", "2"])),
            "column 'model_version' must have one value",
        ),
        (
            lambda batch: batch.set_column(12, "row", pa.array([0, None, 1], pa.int32())),
            "column 'row' has nulls",
        ),
        (lambda batch: batch.append_column("f0", batch.column("f0")), "a column is there twice"),
        (
            lambda batch: batch.append_column("list", pa.array([[1], [2], [3]])),
            "column 'list' holds no numbers or strings",
        ),
        (
            lambda batch: batch.append_column("span", pa.array([1, 2, 3], pa.duration("s"))),
            "column 'span' holds no numbers or strings",
        ),
    ],
)
def test_what_is_no_batch_of_records_is_refused(
    spoil: Callable[[pa.RecordBatch], pa.RecordBatch],
    message: str,
    log: RecordLog,
    make_batch: MakeBatch,
) -> None:
    with pytest.raises(MalformedBatchError, match=message):
        log.append(spoil(make_batch(["a", "b", "c"])), batch_id=BatchId("e", 1, 3))
    assert log.stats().rows == 0


def test_a_log_is_the_same_after_it_was_closed(
    log_url: str, log: RecordLog, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    log.append(make_batch(["a"]), batch_id=BatchId("e", 1, 1))
    log.close()
    with contextlib.closing(open_log(log_url)) as again:
        again.append(make_batch(["a", "b"]), batch_id=BatchId("e", 1, 2))
        assert _ids(again, read_ids) == ["a", "b"]
    with pytest.raises(LogUnavailableError, match="closed"):
        log.read(0, limit_rows=1)
    with pytest.raises(LogUnavailableError, match="closed"):
        log.append(make_batch(["c"]), batch_id=BatchId("e", 3, 3))


def test_threads_append_and_read_at_once(
    log: RecordLog, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    """A reader that follows sees every batch once, in order, whoever commits when."""
    per_thread, threads = 40, 6
    done = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        cursor = 0
        while True:
            last_round = done.is_set()
            for offset, _ in log.read(cursor, limit_rows=10):
                seen.append(offset)
            cursor = seen[-1] if seen else 0
            if last_round and cursor == log.end_offset():
                return

    def write(thread: int) -> None:
        for i in range(per_thread):
            batch = make_batch([f"{thread}-{i}"])
            log.append(batch, batch_id=BatchId(f"e{thread}", i + 1, i + 1))

    follower = threading.Thread(target=follow)
    follower.start()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))
    done.set()
    follower.join()
    assert len(seen) == len(set(seen)) == per_thread * threads
    assert seen == sorted(seen)
    assert len(set(read_ids(log))) == per_thread * threads


def test_two_processes_write_one_log_while_a_third_reads(log_url: str, read_ids: ReadIds) -> None:
    """Both start on a log that does not exist yet."""
    program = [sys.executable, Path(__file__).parent / "append_and_end.py", log_url]
    children = [subprocess.Popen([*program, f"e{n}", "100"]) for n in range(2)]
    cursor, seen = 0, []
    with contextlib.closing(open_log(log_url)) as log:
        while any(child.poll() is None for child in children) or cursor < log.end_offset():
            for offset, _ in log.read(cursor, limit_rows=50):
                seen.append(offset)
            cursor = seen[-1] if seen else 0
            time.sleep(0.01)
        assert [child.returncode for child in children] == [0, 0]
        assert seen == sorted(set(seen))
        keys = _ids(log, read_ids)
        assert len(keys) == len(set(keys)) == len(seen) == 200
        assert {state.last_seq for state in log.stats().emitters.values()} == {100}


def test_retention_by_age_uses_the_records_time(
    log: RecordLog, append: Any, make_batch: MakeBatch, clock: ManualClock, read_ids: ReadIds
) -> None:
    for at in (100.0, 9_000.0, 50.0, 9_990.0):  # a clock that jumped back in between
        append(make_batch([f"t{at:g}"], time=at))
    assert log.expire(max_age=2_000.0) == 2
    assert _ids(log, read_ids) == ["t9000", "t9990"]
    assert (log.stats().rows, log.stats().batches) == (2, 2)
    clock.advance(1_500.0)
    assert log.expire(max_age=2_000.0) == 1
    assert append(make_batch(["next"])) == 5, "an offset is never given twice"


def test_retention_by_bytes_keeps_the_newest(
    log: RecordLog, append: Any, make_batch: MakeBatch, read_ids: ReadIds
) -> None:
    for n in range(10):
        append(make_batch([f"{n}-{i}" for i in range(20)]))
    before = log.stats().bytes
    assert log.expire(max_bytes=before) == 0
    assert log.expire(max_bytes=before // 2) == 100
    assert _ids(log, read_ids)[0] == "5-0"
    assert log.stats().bytes <= before // 2
    assert log.expire(max_bytes=0, up_to={0: 7}) == 40
    assert log.expire(max_bytes=0) == 60
    assert log.stats().rows == log.stats().bytes == 0


def test_deleted_rows_are_still_recognised_when_they_are_sent_again(
    log: RecordLog, make_batch: MakeBatch
) -> None:
    log.append(make_batch(["a"]), batch_id=BatchId("e", 1, 1))
    log.expire(max_bytes=0)
    log.append(make_batch(["a"]), batch_id=BatchId("e", 1, 1))
    assert log.stats().rows == 0


@pytest.mark.parametrize("url", ["", "sqlite:///", "redis://x", "sqlite:/x"])
def test_an_unknown_backend_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a record log; allowed: sqlite:///path"):
        open_log(url)


@pytest.mark.parametrize(
    "text", ["", "e", "e:1", "e:0-3", "e:5-4", "e:1-2-3", "a b:1-2", "e:1-\u00b2"]
)
def test_a_batch_id_is_checked(text: str) -> None:
    with pytest.raises(ValueError, match="is not a batch id"):
        BatchId.parse(text)


def test_retention_archives_before_it_deletes(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    append(make_batch(["a", "b"]))
    retention = Retention(max_bytes=0, archive=tmp_path / "archive")
    assert retention.apply(log) == 2
    assert len(list((tmp_path / "archive").rglob("*.parquet"))) == 1
    assert retention.apply(log) == 0


@pytest.mark.parametrize("archived", [False, True])
def test_retention_deletes_nothing_that_a_consumer_has_yet_to_read(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path, archived: bool
) -> None:
    for n in range(4):
        append(make_batch([f"r{n}"]))
    archive = tmp_path / "archive" if archived else None
    retention = Retention(max_bytes=0, consumers=("m/drift", "m/accuracy"), archive=archive)
    log.commit("m/drift", {0: 4})
    assert retention.apply(log) == 0, "one has not begun"
    log.commit("m/accuracy", {0: 3})
    assert retention.apply(log) == 3
    log.commit("m/accuracy", {0: 4})
    assert retention.apply(log) == 1
