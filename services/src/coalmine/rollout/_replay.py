"""Recomputing a rollout's verdicts from its ledger alone: what was decided, and would be again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalmine.clock import SYSTEM_CLOCK
from coalmine.rollout._decide import Policy, Verdict, decide
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
    """The rollout of a database that was started last; None if there is none."""
    if not database.is_file():
        raise FileNotFoundError(f"{database}: no such rollout database")
    store = Store(database, clock=SYSTEM_CLOCK)
    try:
        newest = max(store.rollouts(), key=lambda each: each.started, default=None)
    finally:
        store.close()
    return None if newest is None else newest.id


def replay(database: Path, rollout: str) -> tuple[Replayed, ...]:
    """Recompute every verdict of a rollout; `UnknownRollout` if the database has none such."""
    if not database.is_file():
        raise FileNotFoundError(f"{database}: no such rollout database")
    store = Store(database, clock=SYSTEM_CLOCK)
    try:
        store.rollout(rollout)
        entries = store.ledger(rollout)
    finally:
        store.close()
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
