"""The spool on its disk: full, torn, spoilt or killed, it loses nothing that it does not count."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalmine.modeldir import ModelCard
from coalmine.records import (
    AnsweredRequest,
    RecordLog,
    SpoolInUseError,
    SpoolStats,
    drain_spool,
    spool_stats,
)
from coalmine.records._frame import Layout
from coalmine.records._framing import scan

from .emitting import NOWHERE, MakeRecord, ReadIds, emitter_of, keys, started, until


async def test_what_a_killed_emitter_left_is_shipped_from_where_it_was_acknowledged(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    first = emitter_of(spool, collector.url, card)
    async with started(first, close=0.0):
        for i in range(100):
            first.emit(make_record(f"a{i}", rows=2))
        await until(lambda: first.stats().pending_rows == 0)
        collector.moody.mood = "503"
        for i in range(100):
            first.emit(make_record(f"b{i}", rows=2))
    collector.moody.mood = "ok"
    async with started(emitter_of(spool, collector.url, card)) as again:
        await until(lambda: again.stats().pending_rows == 0)
    assert read_ids(collector.log) == keys([f"{n}{i}" for n in "ab" for i in range(100)], 2)


async def test_segments_are_written_over_and_what_was_in_them_is_never_shipped_again(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    first = emitter_of(spool, collector.url, card, max_bytes=200_000)
    names = []
    async with started(first, close=0.0):
        for number in range(60):  # 13 segments' worth, shipped as it comes
            names.append(f"r{number}")
            first.emit(make_record(names[-1], rows=40))
            await until(lambda: first.stats().pending_rows < 400)
        await until(lambda: first.stats().pending_rows == 0)
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
    async with started(emitter_of(killed, collector.url, card, max_bytes=200_000)) as again:
        names.append("after")
        again.emit(make_record("after", rows=40))
    assert read_ids(collector.log) == keys(names, 40)


async def test_no_frame_is_made_for_a_full_spool_and_again_when_it_has_room(
    tmp_path: Path, card: ModelCard, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"features": np.ones((100, 24), np.float32)}
    outputs = {
        tensor.name: np.ones((100, len(tensor.columns)), np.float32) for tensor in card.outputs
    }
    made: list[int] = []
    encode = Layout.encode_batch

    def counting(self: Layout, *args: Any, **options: Any) -> Any:
        made.append(1)
        return encode(self, *args, **options)

    monkeypatch.setattr(Layout, "encode_batch", counting)
    emitter = emitter_of(tmp_path / "spool", collector.url, card, max_bytes=200_000)

    def emit() -> None:
        request = AnsweredRequest("r", 1e9, "v2", 1, 100, 1, -1)
        emitter.emit_batch([request], [(inputs, outputs)], batch_rows=100)

    while not emitter.stats().dropped_rows:
        emit()
    frames = len(made)
    for _ in range(5):
        emit()
    assert len(made) == frames
    assert emitter.stats().dropped["spool_full"] == emitter.stats().dropped_rows == 600
    async with started(emitter):
        await until(lambda: emitter.stats().pending_rows == 0)
        emit()
        await until(lambda: emitter.stats().pending_rows == 0)
    assert len(made) == frames + 1
    assert emitter.stats().acknowledged_rows == frames * 100


async def test_a_full_spool_drops_and_counts_also_across_restarts(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    for _ in range(2):
        emitter = emitter_of(spool, NOWHERE, card, max_bytes=100_000)
        for i in range(200):
            emitter.emit(make_record(f"r{i}", rows=8))
        await emitter.close(0.0)
    stats = spool_stats(spool)
    assert stats.emitted_rows == 3200
    assert stats.dropped["spool_full"] == stats.dropped_rows > 1600
    assert sum(path.stat().st_size for path in spool.iterdir()) <= 101_000

    async with started(emitter_of(spool, collector.url, card, max_bytes=100_000)) as emitter:
        await until(lambda: emitter.stats().pending_rows == 0)
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
    emitter = emitter_of(spool, collector.url, card, max_bytes=80_000)

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        emitter.emit(make_record("lost", rows=1))
    assert not list(spool.glob("*.frames"))
    emitter.emit(make_record("first", rows=64))
    emitter.emit(make_record("large", rows=128))  # more than a segment usually takes
    emitter.emit(make_record("small", rows=64))
    async with started(emitter):
        pass
    kept = [*keys(["first"], 64), *keys(["large"], 128), *keys(["small"], 64)]
    assert read_ids(collector.log) == kept
    assert spool_stats(spool).dropped["write_error"] == 1


async def test_small_and_large_frames_lie_behind_each_other(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    """The small ones are copied into mapped memory, the large ones written."""
    wanted = []
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        for number in range(60):
            rows = 400 if number % 3 else 1
            emitter.emit(make_record(f"r{number}", rows=rows))
            wanted += keys([f"r{number}"], rows)
        await until(lambda: emitter.stats().pending_rows == 0)
        emitter.emit(make_record("last", rows=2))  # into what the system wrote before
    assert read_ids(collector.log) == [*wanted, *keys(["last"], 2)]
    assert spool_stats(tmp_path / "spool").dropped_rows == 0


async def test_a_row_too_large_for_what_is_left_of_the_spool_leaves_nothing_behind(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    """Behind a segment that has its layout already, and no row."""
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, collector.url, card, max_bytes=80_000)
    emitter.emit(make_record("first", rows=8))
    other = emitter.of_version(card=card, model_version="9")
    other.emit(make_record("huge", rows=1000))
    other.emit(make_record("next", rows=8))
    async with started(emitter):
        pass
    assert read_ids(collector.log) == keys(["first", "next"], 8)
    assert spool_stats(spool).dropped["spool_full"] == 1000
    assert not list(spool.glob("*.frames"))


async def test_requests_answered_together_are_kept_in_one_frame(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    whole = make_record("all", rows=6)
    requests = [AnsweredRequest(f"r{n}", 1.0, "v2", 5, n) for n in (1, 2, 3)]
    assert whole.outputs is not None
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        emitter.emit(make_record("first", rows=1))  # begins the segment
        emitter.emit_batch(requests, [(whole.inputs, whole.outputs)], batch_rows=6)
        (segment,) = (tmp_path / "spool").glob("*.frames")
        found = scan(segment.read_bytes())
        assert (len(found.starts), found.rows) == (3, 7)  # the layout, the first, all of them
        too_few = {"features": np.zeros((5, 24), np.float32)}
        emitter.emit_batch(requests, [(too_few, whole.outputs)], batch_rows=6)
    assert read_ids(collector.log) == [
        ("first", 0), ("r1", 0), ("r2", 0), ("r2", 1), ("r3", 0), ("r3", 1), ("r3", 2),
    ]  # fmt: skip
    stats = spool_stats(tmp_path / "spool")
    assert (stats.emitted_rows, stats.dropped["malformed"]) == (13, 6)


async def test_a_batch_torn_by_a_kill_is_lost_whole_and_nothing_else(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, NOWHERE, card)
    await emitter.start()
    emitter.emit(make_record("before", rows=2))
    together = make_record("all", rows=300)
    assert together.outputs is not None
    requests = [AnsweredRequest(f"r{n}", 1.0, "grpc", 5, 3) for n in range(100)]
    emitter.emit_batch(requests, [(together.inputs, together.outputs)], batch_rows=300)
    await emitter.close(0.0)
    (segment,) = spool.glob("*.frames")
    os.truncate(segment, segment.stat().st_size - 1000)

    async with started(emitter_of(spool, collector.url, card)) as again:
        again.emit(make_record("after", rows=1))
    assert read_ids(collector.log) == [("before", 0), ("before", 1), ("after", 0)]
    stats = spool_stats(spool)
    assert (stats.emitted_rows, stats.pending_rows) == (3, 0)  # what was torn was never answered


async def test_a_spool_has_one_emitter(tmp_path: Path, card: ModelCard) -> None:
    emitter = emitter_of(tmp_path / "spool", NOWHERE, card)
    with pytest.raises(SpoolInUseError, match="another process emits into this spool"):
        emitter_of(tmp_path / "spool", NOWHERE, card)
    await emitter.close()


async def test_a_torn_frame_is_cut_and_was_never_counted(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, NOWHERE, card)
    for i in range(5):
        emitter.emit(make_record(f"r{i}", rows=2))
    await emitter.close(0.0)
    (segment,) = spool.glob("*.frames")
    segment.write_bytes(segment.read_bytes()[:-7])
    assert spool_stats(spool).emitted_rows == 8
    async with started(emitter_of(spool, collector.url, card)) as emitter:
        emitter.emit(make_record("next", rows=2))
    assert read_ids(collector.log) == keys(["r0", "r1", "r2", "r3", "next"], 2)
    assert spool_stats(spool).emitted_rows == 10


async def test_a_kill_between_a_new_segment_and_its_first_row_costs_nothing(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    for name in ("old", "torn"):
        emitter = emitter_of(spool, NOWHERE, card)
        emitter.emit(make_record(name, rows=2))
        await emitter.close(0.0)
    newest = max(spool.glob("*.frames"))
    newest.write_bytes(newest.read_bytes()[:-7])
    async with started(emitter_of(spool, collector.url, card)) as emitter:
        emitter.emit(make_record("next", rows=2))
        await until(lambda: emitter.stats().pending_rows == 0)
        emitter.emit(make_record("last", rows=2))
    assert read_ids(collector.log) == keys(["old", "next", "last"], 2)
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
        emitter = emitter_of(spool, NOWHERE, card)
        for i in range(10):
            emitter.emit(make_record(f"g{generation}-{i}", rows=2))
        await emitter.close(0.0)
    oldest = min(spool.glob("*.frames"))
    data = bytearray(oldest.read_bytes())
    data[at] ^= 0xFF
    oldest.write_bytes(data)
    async with started(emitter_of(spool, collector.url, card)):
        pass
    stats = spool_stats(spool)
    assert stats.dropped["corrupt"] > 0
    assert stats.emitted_rows == 40
    assert log.stats().rows == stats.acknowledged_rows == 40 - stats.dropped_rows >= 20


async def test_a_spoilt_state_starts_a_new_account_and_loses_no_frame(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, NOWHERE, card)
    emitter.emit(make_record("r", rows=2))
    await emitter.close(0.0)
    (spool / "state").write_bytes(b"\0" * 30)
    async with started(emitter_of(spool, collector.url, card)):
        pass
    assert read_ids(collector.log) == keys(["r"], 2)


async def test_the_spool_of_an_arm_that_is_gone_can_be_drained(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, NOWHERE, card)
    emitter.emit(make_record("left", rows=2))
    with pytest.raises(SpoolInUseError):
        drain_spool(spool, collector.url, timeout=1.0)
    await emitter.close(0.0)
    assert drain_spool(spool, NOWHERE, timeout=0.1).pending_rows == 2
    stats = await asyncio.to_thread(drain_spool, spool, collector.url, timeout=10.0)
    assert (stats.pending_rows, stats.acknowledged_rows) == (0, 2)
    assert read_ids(collector.log) == keys(["left"], 2)
    assert drain_spool(tmp_path / "nothing", collector.url, timeout=1.0) == SpoolStats()


def test_no_spool_is_an_empty_account(tmp_path: Path) -> None:
    assert spool_stats(tmp_path / "nothing") == SpoolStats()


async def test_a_large_spool_is_shipped_in_segments_and_cleared(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, log: RecordLog
) -> None:
    spool = tmp_path / "spool"
    async with started(emitter_of(spool, collector.url, card, max_bytes=2_000_000)) as emitter:
        record = make_record(rows=64)
        for _ in range(20):
            for _ in range(20):
                emitter.emit(record)
            await until(lambda: emitter.stats().pending_rows == 0)
            assert sum(path.stat().st_size for path in spool.iterdir()) < 2_000_000
    assert log.stats().rows == 400 * 64
    assert spool_stats(spool).dropped_rows == 0
