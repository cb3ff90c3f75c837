"""Recomputing a rollout's verdicts from its ledger alone: what was decided, and would be again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from coalmine.clock import SYSTEM_CLOCK
from coalmine.rollout._decide import Policy, Verdict, decide
from coalmine.rollout._errors import RolloutError
from coalmine.rollout._evidence import Evidence
from coalmine.rollout._store import Store

__all__ = ["Replayed", "newest_of", "replay"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One verdict of the ledger, beside the one that its evidence gives now."""

    number: int
    """Of the ledger's entry."""

    time: float
    stage: str | None
    recorded: Verdict
    recomputed: Verdict

    @property
    def same(self) -> bool:
        """Whether the two agree, in every e-value."""
        return self.recorded == self.recomputed


def newest_of(database: Path) -> str | None:
    """The rollout of a database that was started last; None if there is none.

    `RolloutError` if the file is no rollout database.
    """
    with _opened(database) as store:
        newest = max(store.rollouts(), key=lambda each: each.started, default=None)
    return None if newest is None else newest.id


def replay(database: Path, rollout: str) -> tuple[Replayed, ...]:
    """Recompute every verdict of a rollout.

    `UnknownRollout` if the database has none such, `RolloutError` if it is none.
    """
    with _opened(database) as store:
        store.rollout(rollout)
        entries = store.ledger(rollout)
    return tuple(
        Replayed(
            number=entry.number,
            time=entry.time,
            stage=entry.stage,
            recorded=Verdict.model_validate(entry.body["verdict"]),
            recomputed=decide(
                Evidence.model_validate(entry.body["evidence"]),
                Policy.model_validate(entry.body["policy"]),
            ),
        )
        for entry in entries
        if "verdict" in entry.body
    )


@contextmanager
def _opened(database: Path) -> Iterator[Store]:
    """A database that is one already: a `Store` would make one of an empty file, or of another."""
    if not database.is_file():
        raise RolloutError(f"{database}: no such rollout database")
    try:
        address = f"file:{quote(str(database.absolute()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as looking:
            tables = looking.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            missing = {"rollouts", "ledger"} - {name for (name,) in tables}
    except sqlite3.DatabaseError as error:
        raise RolloutError(f"{database}: not a rollout database: {error}") from error
    if missing:
        raise RolloutError(f"{database}: not a rollout database: it has no ledger of rollouts")
    store = Store(database, clock=SYSTEM_CLOCK)
    try:
        yield store
    finally:
        store.close()
