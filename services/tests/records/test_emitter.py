"""The emitter against a real collector: nothing lost or doubled, every row accounted for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalmine.modeldir import ModelCard
from coalmine.records import (
    AnsweredRequest,
    RecordLog,
    spool_stats,
)
from coalmine.records._decode import parse_frames

from .emitting import NOWHERE, MakeRecord, ReadIds, emitter_of, keys, started, until


async def test_what_is_emitted_arrives_in_order(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    names = [f"r{i}" for i in range(1000)]
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        for name in names:
            emitter.emit(make_record(name, rows=3))
        assert emitter.stats().emitted_rows == 3000
        await until(lambda: emitter.stats().pending_rows == 0)
    assert read_ids(collector.log) == keys(names, 3)
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
        emitter = emitter_of(spool, NOWHERE, make_card(features), model_version=version)
        async with started(emitter, close=0.0):
            for i in range(50):
                emitter.emit(make_record(f"v{version}-{i}", rows=2, features=features))
    assert spool_stats(spool).pending_rows == 300

    async with started(emitter_of(spool, collector.url, make_card(24), model_version="4")):
        pass
    names = [f"v{version}-{i}" for version in "123" for i in range(50)]
    assert read_ids(collector.log) == keys(names, 2)
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
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        for i, name in enumerate(names):
            emitter.emit(make_record(name, rows=2))
            if i == 100:
                collector.moody.mood = mood
                await until(lambda: collector.moody.refused >= (1 if mood == "slow" else 3))
            if i == 200:
                collector.moody.mood = "ok"
                await asyncio.sleep(0.05)
    assert read_ids(collector.log) == keys(names, 2)
    assert spool_stats(tmp_path / "spool").acknowledged_rows == 600


async def test_a_collector_that_was_away_gets_everything_later(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        for i in range(30):
            if i == 10:
                collector.stop()
            emitter.emit(make_record(f"r{i}", rows=1))
            await asyncio.sleep(0.01)
        assert emitter.stats().pending_rows >= 20
        collector.start()
        await until(lambda: emitter.stats().pending_rows == 0)
    assert read_ids(collector.log) == keys([f"r{i}" for i in range(30)], 1)


async def test_a_rejected_batch_is_given_up_and_counted(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    collector.moody.mood = "400"
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        emitter.emit(make_record("poison", rows=2))
        await until(lambda: emitter.stats().dropped_rows == 2)
        collector.moody.mood = "ok"
        emitter.emit(make_record("good", rows=2))
    assert read_ids(collector.log) == keys(["good"], 2)
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
    async with started(emitter_of(tmp_path / "spool", f"http://127.0.0.1:{port}", card)) as emitter:
        for count in range(1, 4):
            emitter.emit(make_record(f"r{count}", rows=2))
            await until(lambda: emitter.stats().pending_rows == 0)
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
    emitter = emitter_of(tmp_path / "spool", collector.url, card)
    await emitter.start()
    emitter.emit(make_record())
    begin = time.monotonic()
    await emitter.close(0.3)
    assert time.monotonic() - begin < 2.0
    assert spool_stats(tmp_path / "spool").pending_rows == 8


async def test_closing_is_cancellable_and_emitting_after_it_is_counted(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord
) -> None:
    emitter = emitter_of(tmp_path / "spool", NOWHERE, card)
    await emitter.start()
    await emitter.close(0.0)
    emitter.emit(make_record())
    assert emitter.stats().dropped["write_error"] == 8
    again = emitter_of(tmp_path / "spool", NOWHERE, card)  # the directory is free
    await again.close()


async def test_a_burst_that_fits_the_spool_is_shipped_whole_in_large_deliveries(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, log: RecordLog
) -> None:
    """Over several segments, larger than any of their parts, and with a request beyond a part."""
    spool = tmp_path / "spool"
    emitter = emitter_of(spool, collector.url, card, max_bytes=64 * 1024**2)
    whole = make_record("all", rows=1000)
    assert whole.outputs is not None
    rows = 0
    for number in range(200):  # 24 MB
        requests = [AnsweredRequest(f"{number}-{n}", 1.0, "v2", 5, 1) for n in range(1000)]
        emitter.emit_batch(requests, [(whole.inputs, whole.outputs)], batch_rows=1000)
        rows += 1000
        if number == 100:
            emitter.emit(make_record("huge", rows=40_000))
            rows += 40_000
    assert len(list(spool.glob("*.frames"))) > 2
    async with started(emitter, close=60.0):
        await until(lambda: emitter.stats().pending_rows == 0, seconds=60)
    stats = spool_stats(spool)
    assert (stats.acknowledged_rows, stats.dropped_rows) == (rows, 0)
    sizes = [batch.num_rows for _, batch in log.read(0, limit_rows=10**7)]
    assert sum(sizes) == rows
    assert max(sizes) == 40_000  # alone: what is sent at once is bounded
    assert sorted(sizes)[len(sizes) // 2] >= 10_000


async def test_what_fills_the_spool_is_shipped_before_the_next_time_comes(
    tmp_path: Path,
    card: ModelCard,
    make_record: MakeRecord,
    collector: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 300 MB/s a spool is full before a second is over."""
    monkeypatch.setattr("coalmine.records._shipper._LINGER", 600.0)
    monkeypatch.setattr("coalmine.records._shipper._LONGEST_LINGER", 600.0)
    emitter = emitter_of(tmp_path / "spool", collector.url, card, max_bytes=200_000)
    async with started(emitter):
        for number in range(100):
            emitter.emit(make_record(f"r{number}", rows=100))
            await until(lambda: emitter.stats().pending_rows < 1_000, seconds=60.0)
    stats = emitter.stats()
    assert (stats.acknowledged_rows, stats.dropped_rows) == (10_000, 0)


async def test_many_threads_emit_at_once(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:

        def work(thread: int) -> None:
            for i in range(200):
                emitter.emit(make_record(f"{thread}-{i}", rows=2))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    found = read_ids(collector.log)
    assert sorted(found) == sorted(keys([f"{t}-{i}" for t in range(8) for i in range(200)], 2))
    for thread in range(8):  # each thread's own order is kept
        mine = [name for name, row in found if row == 0 and name.startswith(f"{thread}-")]
        assert mine == [f"{thread}-{i}" for i in range(200)]


async def test_a_wrong_record_is_counted_and_the_prediction_goes_on(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, collector: Any, read_ids: ReadIds
) -> None:
    async with started(emitter_of(tmp_path / "spool", collector.url, card)) as emitter:
        emitter.emit(make_record(rows=5, inputs={"features": np.zeros((5, 2), np.float32)}))
        emitter.emit(make_record(rows=5, inputs={}))
        emitter.emit(make_record("good", rows=1))
    assert read_ids(collector.log) == [("good", 0)]
    stats = spool_stats(tmp_path / "spool")
    assert stats.dropped["malformed"] == 6
    assert stats.emitted_rows == 7


def test_a_sink_must_be_a_url(tmp_path: Path, card: ModelCard) -> None:
    with pytest.raises(ValueError, match="'localhost:80' is nowhere to keep records"):
        emitter_of(tmp_path / "spool", "localhost:80", card)
