"""The controller's database: rollouts, what serves, the lease, and the ledger. SQLite, several
processes.

Every transition and its ledger entry are one transaction, durable before anything is done about it.
The ledger is append-only: the database itself refuses to change or delete an entry.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalmine.clock import Clock
from coalmine.gateway import RoutePlan
from coalmine.rollout._errors import LeaseLost, RolloutMoved, RolloutRefused, UnknownRollout
from coalmine.rollout._state import Rollout, Serving

__all__ = ["Entry", "Held", "LedgerEntry", "Store", "View"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
  id INTEGER PRIMARY KEY CHECK (id = 1), owner TEXT NOT NULL, beat REAL NOT NULL,
  token INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS serving (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rollouts (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL,
  outcome TEXT, ended REAL, under_way INTEGER NOT NULL, revision INTEGER NOT NULL, body TEXT NOT
  NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_under_way ON rollouts (under_way) WHERE under_way = 1;
CREATE TABLE IF NOT EXISTS ledger (
  number INTEGER PRIMARY KEY AUTOINCREMENT, rollout TEXT, time REAL NOT NULL, actor TEXT NOT NULL,
  kind TEXT NOT NULL, state TEXT, stage TEXT, decision TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_by_rollout ON ledger (rollout, number);
CREATE TRIGGER IF NOT EXISTS ledger_is_not_changed BEFORE UPDATE ON ledger
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS ledger_is_not_deleted BEFORE DELETE ON ledger
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
#: How long a writer waits for another, in seconds.
_BUSY = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be written in the ledger: who did what, on which grounds."""

    kind: str
    actor: str
    plan: RoutePlan
    """The routes from here on: what the data plane shows is by the time it shows it in here."""

    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What was written in the ledger."""

    number: int
    rollout: str | None
    time: float
    kind: str
    actor: str
    state: str | None
    stage: str | None
    decision: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """The lease of one who acts."""

    owner: str
    beat: float
    """When it last said so, in seconds since the epoch."""

    token: int


@dataclass(frozen=True, slots=True)
class View:
    """What the controller acts upon."""

    serving: Serving
    rollout: Rollout | None
    """The one that is under way."""


class Store:
    """Safe to use from several threads and several processes. Every method blocks."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        # A decision must outlive the power: it may already have moved traffic.
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._upgrade()

    def _upgrade(self) -> None:
        """A database of before the tokens gets them."""
        with self._transaction():
            columns = [row[1] for row in self._db.execute("PRAGMA table_info(lease)")]
            if "token" not in columns:
                self._db.execute("ALTER TABLE lease ADD COLUMN token INTEGER NOT NULL DEFAULT 0")

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    # -- the lease --------------------------------------------------------------------------------

    def lease(self) -> Held | None:
        """Who acts, and when it last said so; None: nobody, since the last one let go."""
        with self._lock:
            return self._held()

    def take_lease(self, owner: str, *, instead_of: Held | None) -> int | None:
        """Become the one who acts, if the lease is still as it was seen; None if it is not.

        Returns the token, larger than all before it, which this owner shows at every write. The
        time of the last beat stays the former owner's until this one beats: should it die before,
        the next still sees how long nobody has watched.
        """
        with self._transaction():
            if self._held() != instead_of:
                return None
            beat = self._clock.time() if instead_of is None else instead_of.beat
            row = self._db.execute(
                "INSERT INTO lease (id, owner, beat, token) VALUES (1, ?, ?, 1) "
                "ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, beat = excluded.beat, "
                "token = token + 1 RETURNING token",
                (owner, beat),
            ).fetchone()
            return int(row[0])

    def beat(self, token: int) -> None:
        """Say that the owner of this token still acts; `LeaseLost` if it is not the owner."""
        with self._transaction():
            self._check(token)
            self._db.execute("UPDATE lease SET beat = ?", (self._clock.time(),))

    def release_lease(self, token: int) -> None:
        """Let the next controller act at once. The row stays: tokens are never given twice."""
        with self._transaction():
            self._db.execute("UPDATE lease SET owner = '' WHERE token = ?", (token,))

    # -- state ------------------------------------------------------------------------------------

    def view(self) -> View:
        """What serves, and the rollout under way."""
        with self._lock:
            serving = self._db.execute("SELECT body FROM serving").fetchone()
            running = self._db.execute("SELECT body FROM rollouts WHERE under_way = 1").fetchone()
        return View(
            serving=Serving.model_validate_json(serving[0]) if serving else Serving(),
            rollout=Rollout.model_validate_json(running[0]) if running else None,
        )

    def next_id(self) -> str:
        """An id for a new rollout: r1, r2, ..."""
        with self._lock:
            newest = self._db.execute("SELECT max(number) FROM rollouts").fetchone()[0]
        return f"r{(newest or 0) + 1}"

    def create(self, rollout: Rollout, entry: Entry) -> None:
        """Begin a rollout; `RolloutRefused` if one is under way."""
        with self._transaction():
            try:
                self._db.execute(
                    "INSERT INTO rollouts (id, digest, under_way, revision, body) "
                    "VALUES (?, ?, 1, 0, ?)",
                    (rollout.id, rollout.candidate.digest, rollout.model_dump_json()),
                )
            except sqlite3.IntegrityError as error:
                raise RolloutRefused("another rollout is under way; one runs at a time") from error
            self._write(entry, rollout)

    def save(
        self,
        rollout: Rollout,
        entry: Entry | None,
        *,
        token: int | None = None,
        serving: Serving | None = None,
    ) -> Rollout:
        """Make a transition durable. `rollout.revision` is the one it was made from.

        `RolloutMoved` if the rollout has changed since; `LeaseLost` if the owner of `token` does
        not act any more. Without a token it is a command, which anybody may give.
        """
        saved = rollout.model_copy(update={"revision": rollout.revision + 1})
        with self._transaction():
            if token is not None:
                self._check(token)
            changed = self._db.execute(
                "UPDATE rollouts SET outcome = ?, ended = ?, under_way = ?, revision = ?, body = ? "
                "WHERE id = ? AND revision = ?",
                (
                    *(saved.outcome, saved.ended, int(saved.under_way), saved.revision),
                    *(saved.model_dump_json(), saved.id, rollout.revision),
                ),
            ).rowcount
            if not changed:
                raise RolloutMoved(f"{saved.id} has changed since revision {rollout.revision}")
            if serving is not None:
                self._serve(serving)
            if entry is not None:
                self._write(entry, saved)
        return saved

    def adopt(self, serving: Serving, entry: Entry, *, token: int) -> None:
        """Serve what the registry says, outside of any rollout."""
        with self._transaction():
            self._check(token)
            self._serve(serving)
            self._write(entry, None)

    # -- reading ----------------------------------------------------------------------------------

    def rollouts(self) -> list[Rollout]:
        """All of them, newest first."""
        with self._lock:
            rows = self._db.execute("SELECT body FROM rollouts ORDER BY number DESC").fetchall()
        return [Rollout.model_validate_json(row[0]) for row in rows]

    def rollout(self, id: str) -> Rollout:
        """One of them; `UnknownRollout`."""
        with self._lock:
            row = self._db.execute("SELECT body FROM rollouts WHERE id = ?", (id,)).fetchone()
            newest = self._db.execute("SELECT max(number) FROM rollouts").fetchone()[0]
        if row is None:
            there_is = "none was started yet" if newest is None else f"the newest is r{newest}"
            raise UnknownRollout(f"no rollout {id!r}; {there_is}")
        return Rollout.model_validate_json(row[0])

    def rejected_since(self, digest: str, since: float) -> tuple[str, float] | None:
        """The last rollout that rolled back this content after `since`, and when; or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT id, ended FROM rollouts WHERE digest = ? AND outcome = 'rolled_back' "
                "AND ended > ? ORDER BY number DESC",
                (digest, since),
            ).fetchone()
        return None if row is None else (str(row[0]), float(row[1]))

    def outcomes(self) -> dict[str, int]:
        """How many rollouts ended in which outcome."""
        with self._lock:
            rows = self._db.execute(
                "SELECT outcome, count(*) FROM rollouts WHERE under_way = 0 GROUP BY outcome"
            ).fetchall()
        return dict(rows)

    def ledger(self, rollout: str | None = None) -> list[LedgerEntry]:
        """A rollout's entries, oldest first; None: all there are."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, rollout, time, kind, actor, state, stage, decision, body "
                "FROM ledger WHERE :id IS NULL OR rollout = :id ORDER BY number",
                {"id": rollout},
            ).fetchall()
        return [_ledger_entry(row) for row in rows]

    # -- inside a transaction ---------------------------------------------------------------------

    def _held(self) -> Held | None:
        row = self._db.execute("SELECT owner, beat, token FROM lease WHERE owner != ''").fetchone()
        return None if row is None else Held(*row)

    def _check(self, token: int) -> None:
        held = self._held()
        if held is None or held.token != token:
            raise LeaseLost(f"controller {token} does not have the lease any more")

    def _serve(self, serving: Serving) -> None:
        self._db.execute(
            "INSERT INTO serving VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (serving.model_dump_json(),),
        )

    def _write(self, entry: Entry, rollout: Rollout | None) -> None:
        about = (
            (None, None, None) if rollout is None else (rollout.id, rollout.state, rollout.stage)
        )
        self._db.execute(
            "INSERT INTO ledger (rollout, state, stage, time, actor, kind, decision, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(*about, self._clock.time(), entry.actor, entry.kind, entry.plan.decision_id),
                json.dumps({**entry.body, "routes": _routes(entry.plan)}, allow_nan=False),
            ),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _routes(plan: RoutePlan) -> dict[str, Any]:
    mirror = None if plan.mirror is None else [plan.mirror[0].value, plan.mirror[1]]
    return {"weights": {arm.value: share for arm, share in plan.weights.items()}, "mirror": mirror}


def _ledger_entry(row: tuple[Any, ...]) -> LedgerEntry:
    number, rollout, time, kind, actor, state, stage, decision, body = row
    return LedgerEntry(
        number=number,
        rollout=rollout,
        time=time,
        kind=kind,
        actor=actor,
        state=state,
        stage=stage,
        decision=decision,
        body=json.loads(body),
    )
