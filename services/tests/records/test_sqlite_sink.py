"""Records straight into a log file, without a collector: durable, shared, and patient."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalmine.modeldir import ModelCard
from coalmine.records import (
    InferenceRecord,
    LogUnavailableError,
    RecordEmitter,
    RecordLog,
    drain_spool,
    open_log,
    spool_stats,
)

MakeRecord = Callable[..., InferenceRecord]
ReadIds = Callable[[RecordLog], list[tuple[str, int]]]


def emitter(directory: Path, card: ModelCard, *, spool: str = "spool") -> RecordEmitter:
    url = f"sqlite:///{directory}/records.db"
    return RecordEmitter(directory / spool, url, card=card, model_version="3", arm="stable")


async def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


async def test_what_is_emitted_is_in_the_file(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, read_ids: ReadIds
) -> None:
    made = emitter(tmp_path, card)
    await made.start()
    for i in range(200):
        made.emit(make_record(f"r{i}", rows=2))
    await until(lambda: made.stats().pending_rows == 0)
    await made.close()
    log = open_log(f"sqlite:///{tmp_path}/records.db")
    assert read_ids(log) == [(f"r{i}", row) for i in range(200) for row in range(2)]
    (state,) = log.stats().emitters.values()
    assert (state.last_seq, state.dropped) == (400, 0)
    log.close()
    assert spool_stats(tmp_path / "spool").acknowledged_rows == 400


async def test_a_locked_file_keeps_records_waiting_and_loses_none(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, read_ids: ReadIds
) -> None:
    made = emitter(tmp_path, card)
    other = sqlite3.connect(tmp_path / "records.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await made.start()
    for i in range(50):
        made.emit(make_record(f"r{i}", rows=2))
    await asyncio.sleep(0.5)
    stats = made.stats()
    assert (stats.pending_rows, stats.dropped_rows) == (100, 0)
    other.execute("COMMIT")
    other.close()
    await until(lambda: made.stats().pending_rows == 0)
    await made.close()
    log = open_log(f"sqlite:///{tmp_path}/records.db")
    assert read_ids(log) == [(f"r{i}", row) for i in range(50) for row in range(2)]
    log.close()


async def test_several_processes_write_one_file(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord, read_ids: ReadIds
) -> None:
    card_file = tmp_path / "card.json"
    card_file.write_text(card.model_dump_json())
    code = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        import numpy as np
        from coalmine.modeldir import ModelCard
        from coalmine.records import InferenceRecord, RecordEmitter

        directory, name = Path(sys.argv[1]), sys.argv[2]
        card = ModelCard.model_validate_json((directory / "card.json").read_text())
        inputs = {"features": np.ones((2, 24), np.float32)}
        outputs = {"label": np.zeros(2, np.int64), "probabilities": np.ones((2, 3), np.float32)}

        async def main():
            made = RecordEmitter(
                directory / name, f"sqlite:///{directory}/records.db", card=card,
                model_version="3", arm="stable",
            )
            await made.start()
            for i in range(300):
                made.emit(InferenceRecord(f"{name}-{i}", 1.0, "v2", 5, inputs, outputs, 200))
                await asyncio.sleep(0.001)
            await made.close(30)
            assert made.stats().pending_rows == 0, made.stats()

        asyncio.run(main())
        """
    )
    names = ("one", "two", "three")
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in names
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    log = open_log(f"sqlite:///{tmp_path}/records.db")
    found = read_ids(log)
    log.close()
    assert len(found) == len(set(found)) == 1800
    for name in names:
        mine = [key for key in found if key[0].startswith(f"{name}-")]
        assert mine == [(f"{name}-{i}", row) for i in range(300) for row in range(2)]


def test_a_full_disk_keeps_records_waiting(tmp_path: Path, card: ModelCard) -> None:
    """Files of this process may not grow: what a full disk is to SQLite and to the spool alike."""
    (tmp_path / "card.json").write_text(card.model_dump_json())
    code = textwrap.dedent(
        """
        import asyncio, resource, sys
        from pathlib import Path
        import numpy as np
        from coalmine.modeldir import ModelCard
        from coalmine.records import InferenceRecord, RecordEmitter

        directory = Path(sys.argv[1])
        card = ModelCard.model_validate_json((directory / "card.json").read_text())
        random = np.random.default_rng(1).normal  # nothing that could be written shorter
        inputs = {"features": random(size=(100, 24)).astype(np.float32)}
        probabilities = random(size=(100, 3)).astype(np.float32)
        outputs = {"label": np.zeros(100, np.int64), "probabilities": probabilities}
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

        async def main():
            made = RecordEmitter(
                directory / "spool", f"sqlite:///{directory}/records.db", card=card,
                model_version="3", arm="stable",
            )
            resource.setrlimit(resource.RLIMIT_FSIZE, (56 * 1024, hard))
            await made.start()
            for i in range(4):  # 4 x 11 kB: the spool holds them, the log's journal does not
                made.emit(InferenceRecord(f"r{i}", 1.0, "v2", 5, inputs, outputs, 200))
            await asyncio.sleep(1.0)
            stats = made.stats()
            assert (stats.pending_rows, stats.dropped_rows) == (400, 0), stats
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            for _ in range(1500):
                if not made.stats().pending_rows:
                    break
                await asyncio.sleep(0.01)
            await made.close(10)
            assert (made.stats().pending_rows, made.stats().acknowledged_rows) == (0, 400)

        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    log = open_log(f"sqlite:///{tmp_path}/records.db")
    assert log.stats().rows == 400
    log.close()


async def test_what_a_dead_emitter_left_can_be_drained_into_a_file(
    tmp_path: Path, card: ModelCard, make_record: MakeRecord
) -> None:
    made = emitter(tmp_path, card)  # never started: as if killed before it shipped anything
    made.emit(make_record("r", rows=2))
    await made.close(0.0)
    url = f"sqlite:///{tmp_path}/records.db"
    assert drain_spool(tmp_path / "spool", url, timeout=10).pending_rows == 0
    log = open_log(url)
    assert log.stats().rows == 2
    log.close()


def test_a_file_that_is_no_log_is_said_at_once(tmp_path: Path, card: ModelCard) -> None:
    (tmp_path / "records.db").write_bytes(b"this is a text, not a database" * 100)
    with pytest.raises(LogUnavailableError, match="not a database"):
        emitter(tmp_path, card)


@pytest.mark.parametrize("url", ["", "off", "records.db", "kafka://x", "sqlite:///", "sqlite://x"])
def test_what_is_no_sink_is_refused(tmp_path: Path, card: ModelCard, url: Any) -> None:
    with pytest.raises(ValueError, match="allowed: sqlite:///path"):
        RecordEmitter(tmp_path / "spool", url, card=card, model_version="3", arm="stable")
    assert not (tmp_path / "spool").exists()
