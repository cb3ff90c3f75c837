"""What is known at the end of a run: the only thing expectations and the report are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coalmine.demo._ledger import Accuracy, Phase
from coalmine.demo._options import Scenario
from coalmine.incidents import Incident

__all__ = ["PROMOTED", "Facts", "RolloutFact", "RunFact", "TriggerFact"]

#: The outcome of a run whose model goes to the rollout.
PROMOTED = "promoted-to-rollout"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFact:
    """One run of the retraining pipeline. Times are seconds since the epoch."""

    id: str
    kind: str
    """`bootstrap`: it trained the first champion; `retrain`: it answers an alert or a person."""

    reason: str
    created: float
    started: float | None
    """None: it waits, or was cancelled before it began."""

    ended: float | None
    outcome: str | None
    version: str | None
    cancelled: bool = False
    """It was given up before it began: the policy has thought better of it."""

    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it is over and has made no model for the rollout."""
        return self.ended is not None and self.outcome != PROMOTED

    @property
    def why(self) -> str:
        """Why it ended as it did, as far as it says."""
        return str(self.detail.get("error") or "; ".join(self.detail.get("reasons", ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerFact:
    """Something that asked the retrainer for a run, and what became of it."""

    name: str
    """The alert's name, if an alert it was."""

    source: str
    """`alert`, `manual`, or `start` for a registry without a champion."""

    fate: str
    """`accepted`, `merged` or `suppressed`."""

    reason: str
    time: float
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFact:
    """One rollout: `states` are the states it has been in, in order."""

    id: str
    version: str
    state: str
    verdict: str | None
    started: float
    ended: float | None
    states: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One run of the demo, as seen from outside the stack."""

    scenario: Scenario
    seed: int
    requests: int
    failed_requests: int
    resent_requests: int
    labels_due: int
    labels_delivered: int
    records_emitted: int
    records_in_log: int
    records_dropped: int
    injected_at: float | None
    """When the scenario was let into the world; None: the run did not get that far."""

    accuracy: Mapping[Phase, Accuracy]
    incidents: tuple[Incident, ...] = ()
    triggers: tuple[TriggerFact, ...] = ()
    runs: tuple[RunFact, ...] = ()
    rollouts: tuple[RolloutFact, ...] = ()
    stable_before: str | None = None
    stable_after: str | None = None
    candidate: str | None = None
    """The version of the broken model that was offered; only in `bad-candidate`."""

    weights_after: Mapping[str, int] = field(default_factory=dict)
    weight_samples: int = 0
    """Times at which the gateway and the controller were both read."""

    weight_mismatches: int = 0
    """Times at which they disagreed although neither was changing."""

    problem: str | None = None
    """What cut the run short, in words; None: nothing did."""

    def retraining_runs(self) -> tuple[RunFact, ...]:
        """The runs that began, or would have, for another reason than an empty registry."""
        return tuple(run for run in self.runs if run.kind != "bootstrap" and not run.cancelled)

    def alerts(self) -> tuple[TriggerFact, ...]:
        """The alerts that reached the retrainer."""
        return tuple(trigger for trigger in self.triggers if trigger.source == "alert")

    def incidents_since_injection(self) -> tuple[Incident, ...]:
        """The incidents that opened after the world changed."""
        at = self.injected_at
        return tuple(i for i in self.incidents if at is not None and i.opened_at >= at)

    def reaction(self) -> RolloutFact | None:
        """The newest rollout other than the first champion's."""
        later = [r for r in self.rollouts if r.version != self.stable_before]
        return max(later, key=lambda r: r.started, default=None)
