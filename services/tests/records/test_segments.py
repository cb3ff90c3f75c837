"""Which segments of a spool are mapped into memory: those at hand, and no others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalmine.modeldir import ModelCard
from coalmine.records import _spool
from coalmine.records._segment import Chunk, Segment, begun

from .emitting import NOWHERE, MakeRecord, ReadIds, emitter_of, keys, started, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what is mapped")


def mapped(directory: Path) -> list[str]:
    """Names of the files in a directory that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = [Path(line.split(maxsplit=5)[5]) for line in lines if str(directory) in line]
    return sorted(path.suffix for path in paths)


async def test_what_waits_long_is_not_held_in_memory_and_shipped_all_the_same(
    tmp_path: Path,
    card: ModelCard,
    make_record: MakeRecord,
    collector: Any,
    read_ids: ReadIds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_spool, "_AT_HAND", 200_000)
    collector.moody.mood = "503"
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, collector.url, card, max_bytes=400_000)
    monkeypatch.setattr(emitter._spool, "_segment_bytes", 20_000)
    names = [f"r{number}" for number in range(60)]
    async with started(emitter):
        for name in names:
            emitter.emit(make_record(name, rows=40))
        assert emitter.stats().dropped_rows == 0
        assert len(list(spool.glob("*.frames"))) > 12
        assert 1 < mapped(spool).count(".frames") <= 11
        collector.moody.mood = "ok"
        await until(lambda: emitter.stats().pending_rows == 0)
        emitter.emit(make_record("after", rows=40))
        await until(lambda: emitter.stats().pending_rows == 0)
    assert read_ids(collector.log) == keys([*names, "after"], 40)


async def test_an_idle_spool_holds_no_more_than_it_writes_to(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, collector.url, card, max_bytes=200_000)
    names = [f"r{number}" for number in range(12)]
    async with started(emitter):
        for number, name in enumerate(names):
            emitter.emit(make_record(name, rows=40))
            if number % 4 == 3:
                await until(lambda: emitter.stats().pending_rows == 0)
        assert list(spool.glob("*.spare"))
        await until(lambda: mapped(spool) == [".frames"])
        emitter.emit(make_record("after", rows=40))  # into a spare one
    assert read_ids(collector.log) == keys([*names, "after"], 40)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_chunk_comes_in_pieces_of_its_own_segment(tmp_path: Path, mapped: bool) -> None:
    segment = begun(tmp_path / "a.frames", 1, 100_000, mapped=mapped)
    segment.begin(b"head")
    sent = np.random.default_rng(1).bytes(90_000)
    segment.write([sent[:10], sent[10:]], len(sent))
    chunk = Chunk(segment, 4 + 1000, 80_000, 1, 1, is_newest=True)
    pieces = [bytes(piece) for piece in chunk.pieces(bytearray(7000))]
    assert b"".join(pieces) == sent[1000:81_000]
    assert len(pieces) == (1 if mapped else 12)
    assert chunk.body() == b"head" + sent[1000:81_000]
    segment.release()
    os.truncate(segment.path, 50_000)
    with pytest.raises(OSError, match="shorter than it was"):
        list(chunk.pieces(bytearray(7000)))


async def test_a_segment_that_cannot_be_begun_leaves_nothing_behind(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spool, "_AT_HAND", -1)  # nothing is mapped: each has its file open
    write = Segment.write

    def failing(self: Segment, parts: Any, size: int) -> None:
        raise OSError("the disk is sick")

    emitter = emitter_of(tmp_path / "spool", NOWHERE, card)
    monkeypatch.setattr(Segment, "write", failing)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        emitter.emit(make_record(f"r{number}", rows=2))
    assert emitter.stats().dropped["write_error"] == 10
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list((tmp_path / "spool").glob("*.frames"))
    monkeypatch.setattr(Segment, "write", write)
    emitter.emit(make_record("good", rows=2))
    assert emitter.stats().pending_rows == 2
    await emitter.close(0.0)


async def test_a_closed_spool_is_not_mapped(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord
) -> None:
    emitter = emitter_of(tmp_path / "spool", NOWHERE, card)
    async with started(emitter, close=0.1):
        emitter.emit(make_record("r", rows=40))
        assert mapped(tmp_path / "spool") == [".frames"]
    assert mapped(tmp_path / "spool") == []
