"""The retrainer's database: every trigger and its fate, every run and how it ended.

One SQLite file; each call is one transaction, and several processes may use it. Runs are frozen; a
change is written and read back.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from coalmine.retraining import _fates
from coalmine.retraining._errors import UnknownRun
from coalmine.retraining._types import Run, Trigger

__all__ = ["Store"]

_SCHEMA = """
create table if not exists runs (id text primary key, created real not null, content text not null,
    active integer not null);
create unique index if not exists one_active_run on runs (active) where active = 1;
create index if not exists runs_by_time on runs (created);
create table if not exists marks (name text primary key, time real not null);
"""
_BUSY_SECONDS = 30.0


class Store:
    """The retrainer's database. Calls block; safe from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, timeout=_BUSY_SECONDS
        )
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        self._connection.executescript(_SCHEMA)
        with self._transaction() as cursor:
            _fates.prepare(cursor)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    # -- runs --------------------------------------------------------------------------------------

    def change_run(self, identifier: str, **changes: Any) -> Run:
        """Write changes of a run; the run as it is now."""
        with self._transaction() as cursor:
            return _update(cursor, replace(_run(cursor, identifier), **changes))

    def run(self, identifier: str) -> Run:
        """One run; `UnknownRun` if there is none of that id."""
        with self._reading() as cursor:
            return _run(cursor, identifier)

    def runs(self, *, limit: int = -1) -> list[Run]:
        """The newest runs, all of them by default, newest first."""
        with self._reading() as cursor:
            found = cursor.execute(
                "select content from runs order by created desc limit ?", (limit,)
            ).fetchall()
        return [_parse(content) for (content,) in found]

    def active_run(self) -> Run | None:
        """The run that is not yet over, if there is one."""
        with self._reading() as cursor:
            found = cursor.execute("select content from runs where active = 1").fetchone()
        return None if found is None else _parse(found[0])

    # -- triggers ----------------------------------------------------------------------------------

    def note_triggers(
        self,
        triggers: Sequence[Trigger],
        *,
        run: Run | None = None,
        marks: Mapping[str, float] | None = None,
    ) -> None:
        """Record the fates of triggers, with the run that they start, if any, and set marks.

        In one transaction: there is no accepted trigger without its run. `sqlite3.IntegrityError`
        if another run is active, so that two never are.
        """
        with self._transaction() as cursor:
            if run is not None:
                cursor.execute(
                    "insert into runs values (?, ?, ?, ?)",
                    (run.id, run.created, json.dumps(asdict(run)), int(run.active)),
                )
            _fates.note(cursor, triggers)
            _set_marks(cursor, marks or {})

    def suppress_run(self, identifier: str, *, reason: str, now: float) -> Run:
        """Cancel a run that has not started, and its triggers with it."""
        with self._transaction() as cursor:
            run = _update(
                cursor,
                replace(
                    _run(cursor, identifier),
                    state="cancelled",
                    ended=now,
                    error=reason,
                    waiting_for="",
                ),
            )
            _fates.suppress(cursor, run=identifier, reason=reason, now=now)
        return run

    def triggers(self, **wanted: Any) -> list[Trigger]:
        """Triggers, newest first; see `_fates.find`."""
        with self._reading() as cursor:
            return _fates.find(cursor, **wanted)

    # -- marks -------------------------------------------------------------------------------------

    def mark(self, name: str) -> float | None:
        """When something was done last, seconds since the epoch."""
        with self._reading() as cursor:
            found = cursor.execute("select time from marks where name = ?", (name,)).fetchone()
        return None if found is None else float(found[0])

    def set_mark(self, name: str, time: float | None) -> None:
        """Note when something was done; None forgets it."""
        with self._transaction() as cursor:
            if time is None:
                cursor.execute("delete from marks where name = ?", (name,))
            else:
                _set_marks(cursor, {name: time})

    @contextmanager
    def _transaction(self, *, kind: str = "immediate") -> Iterator[sqlite3.Cursor]:
        with self._lock:
            cursor = self._connection.cursor()
            cursor.execute(f"begin {kind}")
            try:
                yield cursor
            except BaseException:
                cursor.execute("rollback")
                raise
            cursor.execute("commit")

    def _reading(self) -> AbstractContextManager[sqlite3.Cursor]:
        """A transaction that takes no other process's turn to write."""
        return self._transaction(kind="deferred")


def _set_marks(cursor: sqlite3.Cursor, marks: Mapping[str, float]) -> None:
    cursor.executemany("insert or replace into marks values (?, ?)", list(marks.items()))


def _update(cursor: sqlite3.Cursor, run: Run) -> Run:
    cursor.execute(
        "update runs set content = ?, active = ? where id = ?",
        (json.dumps(asdict(run)), int(run.active), run.id),
    )
    return run


def _run(cursor: sqlite3.Cursor, identifier: str) -> Run:
    found = cursor.execute("select content from runs where id = ?", (identifier,)).fetchone()
    if found is None:
        raise UnknownRun(f"there is no run {identifier!r}")
    return _parse(found[0])


def _parse(content: str) -> Run:
    values = json.loads(content)
    return Run(**{**values, "reasons": tuple(values["reasons"])})
