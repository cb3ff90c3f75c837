"""Everything the report shows, put together at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalmine.demo._expectations import Check
from coalmine.demo._facts import Facts
from coalmine.demo._history import History
from coalmine.demo._ledger import Bin, Phase
from coalmine.demo._options import Scenario
from coalmine.demo._spans import Span
from coalmine.incidents import Incident

__all__ = ["Story"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One run: the facts, the verdict on them, and what was seen on the way."""

    facts: Facts
    checks: Sequence[Check]
    history: History
    started: float
    ended: float
    stages: Sequence[Span] = ()
    """What the demo did, in order; they may not overlap."""

    phases: Mapping[Phase, Span] = field(default_factory=dict)
    bins: Sequence[Bin] = ()
    versions: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[str] = ()
    machine: str = ""

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def offset(self, time: float) -> float:
        """A time as seconds since the start of the run."""
        return time - self.started

    def drift(self) -> Incident | None:
        """The incident that tells of the change: the first of the kind that fits, else of any."""
        fits = "data_quality" if self.facts.scenario is Scenario.SENSOR_FAULT else "drift"
        opened = sorted(self.facts.incidents_since_injection(), key=lambda i: i.opened_at)
        return next((i for i in opened if i.kind == fits), opened[0] if opened else None)
