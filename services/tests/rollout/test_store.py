"""The ledger cannot be rewritten, and a disk that is full stops decisions, not the controller."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from coalmine.rollout import RolloutError, RolloutRefused, UnknownRollout, newest_of, replay

from .conftest import Stage


async def test_the_ledger_cannot_be_rewritten(stage: Stage) -> None:
    await stage.with_champion()
    with sqlite3.connect(stage.database) as db:
        for statement in ("UPDATE ledger SET actor = 'nobody'", "DELETE FROM ledger"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)
    db.close()


def test_of_two_starts_at_once_one_is_refused(stage: Stage) -> None:
    results: list[str] = []
    barrier = threading.Barrier(2)

    def begin() -> None:
        barrier.wait()
        try:
            results.append(stage.start("3"))
        except RolloutRefused:
            results.append("refused")

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["r1", "refused"]


async def test_nothing_is_done_about_what_could_not_be_written(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "shadowing")
    routed = len(stage.world.history)
    db = stage.store._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")  # As a full disk: the file cannot grow.

    await stage.tick(60)

    assert stage.rollout(id).state == "shadowing"
    assert len(stage.world.history) == routed
    assert stage.controller.note is not None
    assert "full" in stage.controller.note
    db.execute(f"PRAGMA max_page_count = {pages * 1000}")
    assert (await stage.until_ended(id)).state == "promoted"


def test_a_rollout_that_does_not_exist(stage: Stage) -> None:
    with pytest.raises(UnknownRollout, match="r9"):
        stage.command("r9", "abort")
    with pytest.raises(UnknownRollout, match="'r9'; none was started yet"):
        replay(stage.database, "r9")
    with pytest.raises(RolloutError, match="no such rollout database"):
        replay(stage.root / "other.db", "r9")


@pytest.mark.parametrize("content", [b"", b"apiVersion: coalmine/v1\n", None])
def test_a_file_that_is_no_rollout_database_stays_as_it_is(
    tmp_path: Path, content: bytes | None
) -> None:
    other = tmp_path / "other.db"
    if content is None:
        with closing(sqlite3.connect(other)) as foreign:
            foreign.execute("CREATE TABLE records (id)")
    else:
        other.write_bytes(content)
    before = other.read_bytes()
    for look in (newest_of, lambda database: replay(database, "r1")):
        with pytest.raises(RolloutError, match="not a rollout database"):
            look(other)
    assert other.read_bytes() == before
    assert list(tmp_path.iterdir()) == [other]
