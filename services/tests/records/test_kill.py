"""`kill -9`, many times: of emitters, and of a process that writes the log."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coalmine.modeldir import ModelCard
from coalmine.records import RecordEmitter, RecordLog, open_log, spool_stats

ReadIds = Callable[[RecordLog], list[tuple[str, int]]]

ROUNDS = 30
ROWS = 4


def _killed(*arguments: object) -> list[int]:
    """What each child had told before it was killed."""
    program = [sys.executable, Path(__file__).parent / "until_killed.py"]
    command = [*program, *(str(argument) for argument in arguments), str(ROUNDS)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=100, check=True)
    return [json.loads(line)["told"] for line in run.stdout.splitlines()]


async def test_kill_9_of_an_emitter_loses_no_row_and_doubles_none(
    tmp_path: Path, card: ModelCard, collector: Any, read_ids: ReadIds
) -> None:
    spool = tmp_path / "spool"
    told = _killed("emit", spool, collector.url)
    assert len(told) == ROUNDS
    emitted = spool_stats(spool).emitted_rows  # of a dead emitter

    last = RecordEmitter(spool, collector.url, card=card, model_version="last", arm="stable")
    await last.start()
    await last.close(30.0)

    keys = read_ids(collector.log)
    assert len(set(keys)) == len(keys), "doubled"
    seen: dict[int, list[int]] = {tag: [] for tag in range(ROUNDS)}
    for name, _ in keys:
        child, _, number = name.partition("-")
        seen[int(child)].append(int(number))
    for tag, numbers in seen.items():
        requests = max(numbers, default=-1) + 1
        assert sorted(numbers) == [n for n in range(requests) for _ in range(ROWS)]
        # A frame may be whole on disk though its `emit` had not returned: one more, never less.
        assert told[tag] <= requests <= told[tag] + 1
    stats = spool_stats(spool)
    assert emitted == stats.emitted_rows == stats.acknowledged_rows == len(keys)
    assert stats.dropped_rows == 0
    assert len(keys) > ROUNDS * ROWS


def test_kill_9_of_a_log_mid_append_keeps_what_was_acknowledged(
    log_url: str, read_ids: ReadIds
) -> None:
    told = _killed("append", log_url)
    assert len(told) == ROUNDS
    with contextlib.closing(open_log(log_url)) as log:
        keys = read_ids(log)
        assert log.stats().rows == len(keys)
    count = len(keys) // ROWS
    assert keys == [(str(n), row) for n in range(count) for row in range(ROWS)]
    # The last batch may be in the log without its answer having been heard.
    assert told[-1] <= count <= told[-1] + 5
    assert told[-1] > ROUNDS
