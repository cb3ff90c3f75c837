"""What the retrainer remembers: every trigger and its fate, every run and how it ended.

One SQLite file; each call is one transaction. Runs are frozen; a change is written and read back.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from coalmine.retraining._errors import UnknownRun
from coalmine.retraining._parameters import RunKind

#: `waiting` for labels and for the quality monitor; `running` the pipeline; `offering` the new
#: version to the rollout; `finished`; `cancelled` by the policy before it started.
RunState = Literal["waiting", "running", "offering", "finished", "cancelled"]
Outcome = Literal["promoted-to-rollout", "rejected", "failed", "timeout"]
Fate = Literal["accepted", "merged", "suppressed"]

_SCHEMA = """
create table if not exists runs (id text primary key, created real not null, content text not null,
    active integer not null);
create unique index if not exists one_active_run on runs (active) where active = 1;
create table if not exists triggers (id integer primary key, identity text not null,
    source text not null, name text not null, model_version text not null, starts_at real,
    fate text not null, reason text not null, run text, count integer not null,
    first_at real not null, last_at real not null, unique (identity, fate, reason));
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the pipeline, and the wait before it. Times are seconds since the epoch."""

    id: str
    kind: RunKind
    reason: str
    actor: str
    created: float
    state: RunState = "waiting"
    model_version: str = ""
    """The version that the trigger was about; empty for a first model."""

    since: float = 0.0
    """Onset of what the run is about."""

    alerted: float = 0.0
    """When the alert started: the quality monitor must have judged up to here."""

    waiting_for: str = ""
    started: float | None = None
    until: float | None = None
    """Record time up to which the run reads; set at its first start, so that a repeat reads the
    same."""

    attempts: int = 0
    deaths: int = 0
    """Attempts whose process died; the retrainer's own restarts do not count."""

    spent: float = 0.0
    """Seconds that finished attempts took of the run's time limit."""

    ended: float | None = None
    outcome: Outcome | None = None
    version: str | None = None
    reasons: tuple[str, ...] = ()
    error: str | None = None
    rollout: str | None = None
    steps: dict[str, float] | None = None

    @property
    def active(self) -> bool:
        """Not yet over."""
        return self.state not in ("finished", "cancelled")


@dataclass(frozen=True, slots=True)
class Trigger:
    """Something that asked for a run. A repeat with the same fate is counted, not listed again."""

    identity: str
    source: Literal["alert", "manual", "start"]
    name: str
    model_version: str
    starts_at: float | None
    fate: Fate
    reason: str
    run: str | None
    count: int
    first_at: float
    last_at: float


class Store:
    """The retrainer's database. Calls block; safe from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    def change_run(self, identifier: str, **changes: Any) -> Run:
        """Write changes of a run; the run as it is now."""
        with self._transaction() as cursor:
            run = replace(_run(cursor, identifier), **changes)
            cursor.execute(
                "update runs set content = ?, active = ? where id = ?",
                (json.dumps(asdict(run)), int(run.active), identifier),
            )
        return run

    def run(self, identifier: str) -> Run:
        """One run; `UnknownRun` if there is none of that id."""
        with self._transaction() as cursor:
            return _run(cursor, identifier)

    def runs(self) -> list[Run]:
        """All runs, newest first."""
        with self._transaction() as cursor:
            found = cursor.execute("select content from runs order by created desc").fetchall()
        return [_parse(content) for (content,) in found]

    def active_run(self) -> Run | None:
        """The run that is not yet over, if there is one."""
        with self._transaction() as cursor:
            found = cursor.execute("select content from runs where active = 1").fetchone()
        return None if found is None else _parse(found[0])

    def note_triggers(self, triggers: Sequence[Trigger], *, run: Run | None = None) -> None:
        """Record the fates of triggers, or count their repetition; with the run they start, if any.

        In one transaction: there is no accepted trigger without its run.
        """
        with self._transaction() as cursor:
            if run is not None:
                _insert(cursor, run)
            cursor.executemany(
                "insert into triggers (identity, source, name, model_version, starts_at, fate,"
                " reason, run, count, first_at, last_at) values (?,?,?,?,?,?,?,?,?,?,?)"
                " on conflict (identity, fate, reason) do update set"
                " count = count + excluded.count, last_at = excluded.last_at, run = excluded.run",
                [tuple(asdict(trigger).values()) for trigger in triggers],
            )

    def suppress_run(self, identifier: str, *, reason: str, now: float) -> Run:
        """Cancel a run that has not started, and its triggers with it."""
        with self._transaction() as cursor:
            run = replace(
                _run(cursor, identifier), state="cancelled", ended=now, error=reason, waiting_for=""
            )
            cursor.execute(
                "update runs set content = ?, active = 0 where id = ?",
                (json.dumps(asdict(run)), identifier),
            )
            cursor.execute(
                "update or replace triggers set fate = 'suppressed', reason = ?, last_at = ?"
                " where run = ? and fate in ('accepted', 'merged')",
                (reason, now, identifier),
            )
        return run

    def triggers(self) -> list[Trigger]:
        """All triggers, newest first."""
        names = ", ".join(field.name for field in fields(Trigger))
        with self._transaction() as cursor:
            found = cursor.execute(
                f"select {names} from triggers order by last_at desc, id desc"
            ).fetchall()
        return [Trigger(*row) for row in found]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock:
            cursor = self._connection.cursor()
            cursor.execute("begin immediate")
            try:
                yield cursor
            except BaseException:
                cursor.execute("rollback")
                raise
            cursor.execute("commit")


def _insert(cursor: sqlite3.Cursor, run: Run) -> None:
    """A new run; sqlite3.IntegrityError if another is active, so that two never are."""
    cursor.execute(
        "insert into runs values (?, ?, ?, ?)",
        (run.id, run.created, json.dumps(asdict(run)), int(run.active)),
    )


def _run(cursor: sqlite3.Cursor, identifier: str) -> Run:
    found = cursor.execute("select content from runs where id = ?", (identifier,)).fetchone()
    if found is None:
        raise UnknownRun(f"there is no run {identifier!r}")
    return _parse(found[0])


def _parse(content: str) -> Run:
    values = json.loads(content)
    return Run(**{**values, "reasons": tuple(values["reasons"])})
