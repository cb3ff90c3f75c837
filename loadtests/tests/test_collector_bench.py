"""The collector's benchmark: it counts what the log has, and its kills lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalmine.records import open_log
from coalmine_loadtests.records import CollectorBench, run_collector_bench, run_kills
from coalmine_loadtests.records._bench import acknowledged_and_stored
from coalmine_loadtests.records._load import Sender
from coalmine_loadtests.records._payload import Payload


def test_rows_are_counted_and_found_again(tmp_path: Path) -> None:
    found = run_collector_bench(
        CollectorBench(seconds=0.5, rows=16, features=3, senders=2, directory=tmp_path)
    )
    assert found.rows > 0
    assert found.rows % 16 == 0
    assert found.rows_per_second == pytest.approx(found.rows / found.seconds)
    assert 0 < found.bytes_per_row_on_disk
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_a_collector_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    rounds: list[int] = []
    found = run_kills(3, rows=8, senders=2, directory=tmp_path, told=rounds.append)
    assert rounds == [1, 2, 3]
    assert found.kills == 3
    assert found.rows == found.batches * 8 > 0


def test_a_lost_row_is_seen(tmp_path: Path) -> None:
    """The check itself: an acknowledgement without a batch in the log is an error."""
    sender = Sender(0, 0, Payload(rows=4, features=2, seed=0))
    log = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    assert acknowledged_and_stored(log, [sender]) == 0
    sender.tags.append("never stored")
    with pytest.raises(RuntimeError, match="1 acknowledged batches are not in the log"):
        acknowledged_and_stored(log, [sender])
    log.close()
