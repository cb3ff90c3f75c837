"""The emitter against a real collector: nothing lost or doubled, every row accounted for."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalmine.modeldir import ModelCard
from coalmine.records import (
    AnsweredRequest,
    InferenceRecord,
    RecordEmitter,
    RecordLog,
    SpoolInUseError,
    SpoolStats,
    drain_spool,
    spool_stats,
)
from coalmine.records._decode import parse_frames
from coalmine.records._framing import scan

MakeRecord = Callable[..., InferenceRecord]
ReadIds = Callable[[RecordLog], list[tuple[str, int]]]

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


def _emitter(spool: Path, url: str, card: ModelCard, **more: Any) -> RecordEmitter:
    options: dict[str, Any] = {"model_version": "3", "arm": "stable", "pod": "p", **more}
    return RecordEmitter(spool, url, card=card, **options)


@asynccontextmanager
async def _started(emitter: RecordEmitter, *, close: float = 10.0) -> AsyncIterator[RecordEmitter]:
    await emitter.start()
    try:
        yield emitter
    finally:
        await emitter.close(close)


async def _until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def _keys(names: list[str], rows: int) -> list[tuple[str, int]]:
    return [(name, row) for name in names for row in range(rows)]


async def test_what_is_emitted_arrives_in_order(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    names = [f"r{i}" for i in range(1000)]
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:
        for name in names:
            emitter.emit(make_record(name, rows=3))
        assert emitter.stats().emitted_rows == 3000
        await _until(lambda: emitter.stats().pending_rows == 0)
    assert read_ids(collector.log) == _keys(names, 3)
    stats = spool_stats(tmp_path / "spool")
    assert (stats.emitted_rows, stats.acknowledged_rows, stats.dropped_rows) == (3000, 3000, 0)
    assert not list((tmp_path / "spool").glob("*.frames"))
    (state,) = collector.log.stats().emitters.values()
    assert (state.last_seq, state.rows, state.dropped) == (3000, 3000, 0)


async def test_the_next_emitter_ships_what_the_last_left_also_of_another_model(
    tmp_path: Path,
    make_card: Callable[..., ModelCard],
    make_record: MakeRecord,
    collector: Any,
    read_ids: ReadIds,
) -> None:
    spool = tmp_path / "spool"
    for version, features in (("1", 24), ("2", 3), ("3", 24)):
        emitter = _emitter(spool, NOWHERE, make_card(features), model_version=version)
        async with _started(emitter, close=0.0):
            for i in range(50):
                emitter.emit(make_record(f"v{version}-{i}", rows=2, features=features))
    assert spool_stats(spool).pending_rows == 300

    async with _started(_emitter(spool, collector.url, make_card(24), model_version="4")):
        pass
    names = [f"v{version}-{i}" for version in "123" for i in range(50)]
    assert read_ids(collector.log) == _keys(names, 2)
    batches = [batch for _, batch in collector.log.read(0, limit_rows=10**6)]
    widths = {batch.column("model_version")[0].as_py(): batch.num_columns for batch in batches}
    assert widths == {"1": 42, "2": 21, "3": 42}
    assert spool_stats(spool).acknowledged_rows == 300


@pytest.mark.parametrize("mood", ["500", "404", "429", "slow", "lost"])
async def test_a_collector_in_a_bad_mood_costs_no_row_and_doubles_none(
    mood: str,
    tmp_path: Path,
    card: ModelCard,
    make_record: MakeRecord,
    collector: Any,
    read_ids: ReadIds,
) -> None:
    names = [f"r{i}" for i in range(300)]
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:
        for i, name in enumerate(names):
            emitter.emit(make_record(name, rows=2))
            if i == 100:
                collector.moody.mood = mood
                await _until(lambda: collector.moody.refused >= (1 if mood == "slow" else 3))
            if i == 200:
                collector.moody.mood = "ok"
                await asyncio.sleep(0.05)
    assert read_ids(collector.log) == _keys(names, 2)
    assert spool_stats(tmp_path / "spool").acknowledged_rows == 600


async def test_a_collector_that_was_away_gets_everything_later(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:
        for i in range(30):
            if i == 10:
                collector.stop()
            emitter.emit(make_record(f"r{i}", rows=1))
            await asyncio.sleep(0.01)
        assert emitter.stats().pending_rows >= 20
        collector.start()
        await _until(lambda: emitter.stats().pending_rows == 0)
    assert read_ids(collector.log) == _keys([f"r{i}" for i in range(30)], 1)


async def test_a_rejected_batch_is_given_up_and_counted(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    collector.moody.mood = "400"
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:
        emitter.emit(make_record("poison", rows=2))
        await _until(lambda: emitter.stats().dropped_rows == 2)
        collector.moody.mood = "ok"
        emitter.emit(make_record("good", rows=2))
    assert read_ids(collector.log) == _keys(["good"], 2)
    stats = spool_stats(tmp_path / "spool")
    assert stats.dropped["rejected"] == 2
    assert (stats.emitted_rows, stats.acknowledged_rows, stats.pending_rows) == (4, 2, 0)
    (state,) = collector.log.stats().emitters.values()
    assert state.dropped == 2


async def test_a_connection_that_the_collector_closed_meanwhile_worries_nobody(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    """As every server does to one that was idle; and no row is sent for nothing."""
    bodies = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with _started(_emitter(tmp_path / "spool", f"http://127.0.0.1:{port}", card)) as emitter:
        for count in range(1, 4):
            emitter.emit(make_record(f"r{count}", rows=2))
            await _until(lambda: emitter.stats().pending_rows == 0)
    server.close()
    await server.wait_closed()
    assert [parse_frames(body, rows=2).column("request_id")[0].as_py() for body in bodies] == [
        "r1",
        "r2",
        "r3",
    ]
    assert not caplog.records


async def test_closing_does_not_wait_for_a_dead_collector(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any
) -> None:
    collector.moody.mood = "503"
    emitter = _emitter(tmp_path / "spool", collector.url, card)
    await emitter.start()
    emitter.emit(make_record())
    begin = time.monotonic()
    await emitter.close(0.3)
    assert time.monotonic() - begin < 2.0
    assert spool_stats(tmp_path / "spool").pending_rows == 8


async def test_closing_is_cancellable_and_emitting_after_it_is_counted(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord
) -> None:
    emitter = _emitter(tmp_path / "spool", NOWHERE, card)
    await emitter.start()
    await emitter.close(0.0)
    emitter.emit(make_record())
    assert emitter.stats().dropped["write_error"] == 8
    again = _emitter(tmp_path / "spool", NOWHERE, card)  # the directory is free
    await again.close()


async def test_a_burst_that_fits_the_spool_is_shipped_whole_in_large_deliveries(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, log: RecordLog
) -> None:
    """Over several segments, larger than any of their parts, and with a request beyond a part."""
    spool = tmp_path / "spool"
    emitter = _emitter(spool, collector.url, card, max_bytes=64 * 1024**2)
    whole = make_record("all", rows=1000)
    assert whole.outputs is not None
    rows = 0
    for number in range(200):  # 24 MB
        requests = [AnsweredRequest(f"{number}-{n}", 1.0, "v2", 5, 1) for n in range(1000)]
        emitter.emit_batch(requests, whole.inputs, whole.outputs, batch_rows=1000)
        rows += 1000
        if number == 100:
            emitter.emit(make_record("huge", rows=40_000))
            rows += 40_000
    assert len(list(spool.glob("*.frames"))) > 2
    async with _started(emitter, close=60.0):
        await _until(lambda: emitter.stats().pending_rows == 0, seconds=60)
    stats = spool_stats(spool)
    assert (stats.acknowledged_rows, stats.dropped_rows) == (rows, 0)
    sizes = [batch.num_rows for _, batch in log.read(0, limit_rows=10**7)]
    assert sum(sizes) == rows
    assert max(sizes) == 40_000  # alone: what is sent at once is bounded
    assert sorted(sizes)[len(sizes) // 2] >= 10_000


async def test_what_a_killed_emitter_left_is_shipped_from_where_it_was_acknowledged(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    first = _emitter(spool, collector.url, card)
    async with _started(first, close=0.0):
        for i in range(100):
            first.emit(make_record(f"a{i}", rows=2))
        await _until(lambda: first.stats().pending_rows == 0)
        collector.moody.mood = "503"
        for i in range(100):
            first.emit(make_record(f"b{i}", rows=2))
    collector.moody.mood = "ok"
    async with _started(_emitter(spool, collector.url, card)) as again:
        await _until(lambda: again.stats().pending_rows == 0)
    assert read_ids(collector.log) == _keys([f"{n}{i}" for n in "ab" for i in range(100)], 2)


async def test_segments_are_written_over_and_what_was_in_them_is_never_shipped_again(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    first = _emitter(spool, collector.url, card, max_bytes=200_000)
    names = []
    async with _started(first, close=0.0):
        for number in range(60):  # 13 segments' worth, shipped as it comes
            names.append(f"r{number}")
            first.emit(make_record(names[-1], rows=40))
            await _until(lambda: first.stats().pending_rows < 400)
        await _until(lambda: first.stats().pending_rows == 0)
        collector.moody.mood = "503"
        assert len(list(spool.iterdir())) < 10  # not one for each
        for number in range(5):
            names.append(f"last{number}")
            first.emit(make_record(names[-1], rows=40))
        assert spool_stats(spool).pending_rows == first.stats().pending_rows > 0  # read outside
        killed = shutil.copytree(spool, tmp_path / "killed")
    files = [(int(path.stem), path.read_bytes()) for path in killed.glob("*.frames")]
    stale = [data[scan(data, seq=seq).end :] for seq, data in files]
    assert any(any(behind) for behind in stale)  # old frames lie behind the new ones
    assert first.stats().dropped_rows == 0
    collector.moody.mood = "ok"
    async with _started(_emitter(killed, collector.url, card, max_bytes=200_000)) as again:
        names.append("after")
        again.emit(make_record("after", rows=40))
    assert read_ids(collector.log) == _keys(names, 40)


async def test_many_threads_emit_at_once(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:

        def work(thread: int) -> None:
            for i in range(200):
                emitter.emit(make_record(f"{thread}-{i}", rows=2))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    keys = read_ids(collector.log)
    assert sorted(keys) == sorted(_keys([f"{t}-{i}" for t in range(8) for i in range(200)], 2))
    for thread in range(8):  # each thread's own order is kept
        mine = [name for name, row in keys if row == 0 and name.startswith(f"{thread}-")]
        assert mine == [f"{thread}-{i}" for i in range(200)]


async def test_a_full_spool_drops_and_counts_also_across_restarts(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    for _ in range(2):
        emitter = _emitter(spool, NOWHERE, card, max_bytes=100_000)
        for i in range(200):
            emitter.emit(make_record(f"r{i}", rows=8))
        await emitter.close(0.0)
    stats = spool_stats(spool)
    assert stats.emitted_rows == 3200
    assert stats.dropped["spool_full"] == stats.dropped_rows > 1600
    assert sum(path.stat().st_size for path in spool.iterdir()) <= 101_000

    async with _started(_emitter(spool, collector.url, card, max_bytes=100_000)) as emitter:
        await _until(lambda: emitter.stats().pending_rows == 0)
        emitter.emit(make_record("room again", rows=8))
    assert len(read_ids(collector.log)) + stats.dropped_rows == 3208
    (state,) = collector.log.stats().emitters.values()
    assert state.dropped == stats.dropped_rows


def test_a_full_disk_drops_counts_and_recovers(tmp_path: Path) -> None:
    """A limit on the size of files: not even a segment for one frame has space."""
    code = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from coalmine.modeldir import Column, ModelCard, Tensor
        from coalmine.records import InferenceRecord, RecordEmitter, spool_stats

        card = ModelCard(name="m", outputs=(), inputs=(
            Tensor(name="x", datatype="FP64", shape=(-1,), columns=(Column(name="c"),)),))
        spool = Path(sys.argv[1])
        emitter = RecordEmitter(
            spool, "http://127.0.0.1:9", card=card, model_version="1", arm="stable")
        x = np.zeros(100)
        def emit():
            emitter.emit(InferenceRecord("r", 1.0, "v2", 1, {"x": x}, {}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for _ in range(20):
            emit()
        full = emitter.stats()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        for _ in range(3):
            emit()
        assert full.dropped["write_error"] > 0, full
        assert emitter.stats() == spool_stats(spool)
        stats = emitter.stats()
        assert stats.emitted_rows == 2300, stats
        assert stats.pending_rows == 2300 - full.dropped_rows, stats
        """
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "spool")], check=True)


async def test_a_segment_for_which_there_is_no_space_costs_its_first_rows_alone(
    tmp_path: Path,
    card: ModelCard,
    make_record: MakeRecord,
    collector: Any,
    read_ids: ReadIds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spool = tmp_path / "spool"
    emitter = _emitter(spool, collector.url, card, max_bytes=80_000)

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        emitter.emit(make_record("lost", rows=1))
    assert not list(spool.glob("*.frames"))
    emitter.emit(make_record("first", rows=64))
    emitter.emit(make_record("large", rows=128))  # more than a segment usually takes
    emitter.emit(make_record("small", rows=64))
    async with _started(emitter):
        pass
    kept = [*_keys(["first"], 64), *_keys(["large"], 128), *_keys(["small"], 64)]
    assert read_ids(collector.log) == kept
    assert spool_stats(spool).dropped["write_error"] == 1


async def test_the_next_segment_is_ready_before_it_is_needed(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    """Made by the thread that ships, once something is kept; what a kill leaves is removed."""
    spool = tmp_path / "spool"
    async with _started(_emitter(spool, collector.url, card, max_bytes=80_000)) as emitter:
        assert not list(spool.glob("*.spare"))
        emitter.emit(make_record("first", rows=8))
        await _until(lambda: (spool / "next.spare").exists())
        for number in range(30):  # over several segments
            emitter.emit(make_record(f"r{number}", rows=40))
            await _until(lambda: emitter.stats().pending_rows == 0)
        killed = shutil.copytree(spool, tmp_path / "killed")
    assert not list(spool.glob("*.spare"))
    assert list(killed.glob("*.spare"))
    async with _started(_emitter(killed, collector.url, card)):
        assert not list(killed.glob("*.spare"))
    names = [*_keys(["first"], 8), *_keys([f"r{number}" for number in range(30)], 40)]
    assert read_ids(collector.log) == names


async def test_a_row_too_large_for_what_is_left_of_the_spool_leaves_nothing_behind(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    """Behind a segment that has its layout already, and no row."""
    spool = tmp_path / "spool"
    emitter = _emitter(spool, collector.url, card, max_bytes=80_000)
    emitter.emit(make_record("first", rows=8))
    other = emitter.of_version(card=card, model_version="9")
    other.emit(make_record("huge", rows=1000))
    other.emit(make_record("next", rows=8))
    async with _started(emitter):
        pass
    assert read_ids(collector.log) == _keys(["first", "next"], 8)
    assert spool_stats(spool).dropped["spool_full"] == 1000
    assert not list(spool.glob("*.frames"))


async def test_a_wrong_record_is_counted_and_the_prediction_goes_on(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:
        emitter.emit(make_record(rows=5, inputs={"features": np.zeros((5, 2), np.float32)}))
        emitter.emit(make_record(rows=5, inputs={}))
        emitter.emit(make_record("good", rows=1))
    assert read_ids(collector.log) == [("good", 0)]
    stats = spool_stats(tmp_path / "spool")
    assert stats.dropped["malformed"] == 6
    assert stats.emitted_rows == 7


async def test_requests_answered_together_are_kept_in_one_frame(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    whole = make_record("all", rows=6)
    requests = [AnsweredRequest(f"r{n}", 1.0, "v2", 5, n) for n in (1, 2, 3)]
    assert whole.outputs is not None
    async with _started(_emitter(tmp_path / "spool", collector.url, card)) as emitter:
        emitter.emit(make_record("first", rows=1))  # begins the segment
        emitter.emit_batch(requests, whole.inputs, whole.outputs, batch_rows=6)
        (segment,) = (tmp_path / "spool").glob("*.frames")
        found = scan(segment.read_bytes())
        assert (len(found.starts), found.rows) == (3, 7)  # the layout, the first, all of them
        too_few = {"features": np.zeros((5, 24), np.float32)}
        emitter.emit_batch(requests, too_few, whole.outputs, batch_rows=6)
    assert read_ids(collector.log) == [
        ("first", 0), ("r1", 0), ("r2", 0), ("r2", 1), ("r3", 0), ("r3", 1), ("r3", 2),
    ]  # fmt: skip
    stats = spool_stats(tmp_path / "spool")
    assert (stats.emitted_rows, stats.dropped["malformed"]) == (13, 6)


async def test_a_batch_torn_by_a_kill_is_lost_whole_and_nothing_else(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = _emitter(spool, NOWHERE, card)
    await emitter.start()
    emitter.emit(make_record("before", rows=2))
    together = make_record("all", rows=300)
    assert together.outputs is not None
    requests = [AnsweredRequest(f"r{n}", 1.0, "grpc", 5, 3) for n in range(100)]
    emitter.emit_batch(requests, together.inputs, together.outputs, batch_rows=300)
    await emitter.close(0.0)
    (segment,) = spool.glob("*.frames")
    os.truncate(segment, segment.stat().st_size - 1000)

    async with _started(_emitter(spool, collector.url, card)) as again:
        again.emit(make_record("after", rows=1))
    assert read_ids(collector.log) == [("before", 0), ("before", 1), ("after", 0)]
    stats = spool_stats(spool)
    assert (stats.emitted_rows, stats.pending_rows) == (3, 0)  # what was torn was never answered


async def test_a_spool_has_one_emitter(tmp_path: Path, card: ModelCard) -> None:
    emitter = _emitter(tmp_path / "spool", NOWHERE, card)
    with pytest.raises(SpoolInUseError, match="another process emits into this spool"):
        _emitter(tmp_path / "spool", NOWHERE, card)
    await emitter.close()


async def test_a_torn_frame_is_cut_and_was_never_counted(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = _emitter(spool, NOWHERE, card)
    for i in range(5):
        emitter.emit(make_record(f"r{i}", rows=2))
    await emitter.close(0.0)
    (segment,) = spool.glob("*.frames")
    segment.write_bytes(segment.read_bytes()[:-7])
    assert spool_stats(spool).emitted_rows == 8
    async with _started(_emitter(spool, collector.url, card)) as emitter:
        emitter.emit(make_record("next", rows=2))
    assert read_ids(collector.log) == _keys(["r0", "r1", "r2", "r3", "next"], 2)
    assert spool_stats(spool).emitted_rows == 10


async def test_a_kill_between_a_new_segment_and_its_first_row_costs_nothing(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    for name in ("old", "torn"):
        emitter = _emitter(spool, NOWHERE, card)
        emitter.emit(make_record(name, rows=2))
        await emitter.close(0.0)
    newest = max(spool.glob("*.frames"))
    newest.write_bytes(newest.read_bytes()[:-7])
    async with _started(_emitter(spool, collector.url, card)) as emitter:
        emitter.emit(make_record("next", rows=2))
        await _until(lambda: emitter.stats().pending_rows == 0)
        emitter.emit(make_record("last", rows=2))
    assert read_ids(collector.log) == _keys(["old", "next", "last"], 2)
    assert spool_stats(spool).emitted_rows == 6


@pytest.mark.parametrize("at", [30, 5000], ids=["layout", "frame"])
async def test_rows_spoilt_on_disk_are_counted_as_dropped(
    at: int,
    tmp_path: Path,
    card: ModelCard,
    make_record: MakeRecord,
    collector: Any,
    log: RecordLog,
) -> None:
    spool = tmp_path / "spool"
    for generation in range(2):
        emitter = _emitter(spool, NOWHERE, card)
        for i in range(10):
            emitter.emit(make_record(f"g{generation}-{i}", rows=2))
        await emitter.close(0.0)
    oldest = min(spool.glob("*.frames"))
    data = bytearray(oldest.read_bytes())
    data[at] ^= 0xFF
    oldest.write_bytes(data)
    async with _started(_emitter(spool, collector.url, card)):
        pass
    stats = spool_stats(spool)
    assert stats.dropped["corrupt"] > 0
    assert stats.emitted_rows == 40
    assert log.stats().rows == stats.acknowledged_rows == 40 - stats.dropped_rows >= 20


async def test_a_spoilt_state_starts_a_new_account_and_loses_no_frame(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = _emitter(spool, NOWHERE, card)
    emitter.emit(make_record("r", rows=2))
    await emitter.close(0.0)
    (spool / "state").write_bytes(b"\0" * 30)
    async with _started(_emitter(spool, collector.url, card)):
        pass
    assert read_ids(collector.log) == _keys(["r"], 2)


async def test_the_spool_of_an_arm_that_is_gone_can_be_drained(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = _emitter(spool, NOWHERE, card)
    emitter.emit(make_record("left", rows=2))
    with pytest.raises(SpoolInUseError):
        drain_spool(spool, collector.url, timeout=1.0)
    await emitter.close(0.0)
    assert drain_spool(spool, NOWHERE, timeout=0.1).pending_rows == 2
    stats = await asyncio.to_thread(drain_spool, spool, collector.url, timeout=10.0)
    assert (stats.pending_rows, stats.acknowledged_rows) == (0, 2)
    assert read_ids(collector.log) == _keys(["left"], 2)
    assert drain_spool(tmp_path / "nothing", collector.url, timeout=1.0) == SpoolStats()


def test_no_spool_is_an_empty_account(tmp_path: Path) -> None:
    assert spool_stats(tmp_path / "nothing") == SpoolStats()


def test_a_sink_must_be_a_url(tmp_path: Path, card: ModelCard) -> None:
    with pytest.raises(ValueError, match="'localhost:80' is nowhere to keep records"):
        _emitter(tmp_path / "spool", "localhost:80", card)


async def test_a_large_spool_is_shipped_in_segments_and_cleared(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, log: RecordLog
) -> None:
    spool = tmp_path / "spool"
    async with _started(_emitter(spool, collector.url, card, max_bytes=2_000_000)) as emitter:
        record = make_record(rows=64)
        for _ in range(20):
            for _ in range(20):
                emitter.emit(record)
            await _until(lambda: emitter.stats().pending_rows == 0)
            assert sum(path.stat().st_size for path in spool.iterdir()) < 2_000_000
    assert log.stats().rows == 400 * 64
    assert spool_stats(spool).dropped_rows == 0
