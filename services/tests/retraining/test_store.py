"""What the retrainer remembers."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from coalmine.retraining import UnknownRun
from coalmine.retraining._store import Run, Store, Trigger


def run(identifier: str, created: float = 1.0) -> Run:
    return Run(id=identifier, kind="retrain", reason="r", actor="a", created=created)


def trigger(identity: str, run: str | None, *, fate: str = "accepted", at: float = 1.0) -> Trigger:
    return Trigger(
        identity=identity,
        source="alert",
        name="n",
        model_version="1",
        starts_at=0.5,
        fate=fate,  # type: ignore[arg-type] # the tests name fates as texts
        reason="",
        run=run,
        count=1,
        first_at=at,
        last_at=at,
    )


def test_it_survives_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.db")
    store.note_triggers([trigger("t", "one")], run=run("one"))
    store.change_run("one", state="running", reasons=("a", "b"), steps={"x": 1.5})
    store.close()
    again = Store(tmp_path / "r.db")
    found = again.active_run()
    assert found is not None
    assert (found.state, found.reasons, found.steps) == ("running", ("a", "b"), {"x": 1.5})
    assert again.triggers() == [trigger("t", "one")]
    again.close()


def test_two_writers_never_have_two_active_runs(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "r.db") for _ in range(4)]
    added: list[str] = []

    def add(number: int) -> None:
        try:
            stores[number].note_triggers([trigger(f"t{number}", None)], run=run(f"run{number}"))
            added.append(f"run{number}")
        except sqlite3.IntegrityError:
            return

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.id for found in stores[0].runs()] == added
    assert len(added) == 1
    assert len(stores[0].triggers()) == 1  # no accepted trigger without its run
    for store in stores:
        store.close()


def test_a_repetition_is_counted(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.db")
    store.note_triggers([trigger("t", None, fate="suppressed")])
    store.note_triggers([trigger("t", None, fate="suppressed", at=9.0)] * 2)
    (found,) = store.triggers()
    assert (found.count, found.first_at, found.last_at) == (3, 1.0, 9.0)
    store.close()


def test_a_run_that_is_suppressed_takes_its_triggers_along(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.db")
    store.note_triggers([trigger("a", "one")], run=run("one"))
    store.note_triggers([trigger("b", "one", fate="merged")])
    store.suppress_run("one", reason="no labels", now=7.0)
    assert {(t.fate, t.reason) for t in store.triggers()} == {("suppressed", "no labels")}
    assert store.run("one").state == "cancelled"
    assert store.active_run() is None
    store.note_triggers([], run=run("two", created=8.0))  # the way is free
    assert [found.id for found in store.runs()] == ["two", "one"]
    with pytest.raises(UnknownRun, match="'three'"):
        store.run("three")
    store.close()
