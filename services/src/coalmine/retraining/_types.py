"""What the retrainer remembers and judges: runs, what asked for them, and the fate of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalmine.retraining._parameters import RunKind

#: `waiting` for labels and for the quality monitor; `running` the pipeline; `offering` the new
#: version to the rollout; `finished`; `cancelled` by the policy before it started.
RunState = Literal["waiting", "running", "offering", "finished", "cancelled"]
Outcome = Literal["promoted-to-rollout", "rejected", "failed", "timeout"]
Fate = Literal["accepted", "merged", "suppressed"]
#: `start`: the retrainer itself, for a service without a champion.
Source = Literal["alert", "schedule", "cli", "http", "start"]

_LONGEST_NAME = 200
_LONGEST_REASON = 500


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
    verdict: str | None = None
    """How its rollout ended: `promoted`, `rolled_back` or `aborted`."""

    steps: dict[str, float] | None = None

    @property
    def active(self) -> bool:
        """Not yet over."""
        return self.state not in ("finished", "cancelled")


@dataclass(frozen=True, slots=True)
class Ask:
    """Something asks for a run, whatever it came by. Times are seconds since the epoch."""

    source: Source
    name: str
    """The alert's name, or a person's reason."""

    identity: str
    """The same for every repetition of one alert."""

    reason: str
    """What the run says that it is for."""

    actor: str
    resolved: bool = False
    model_name: str | None = None
    """None where it names no model: ours."""

    model_version: str | None = None
    """None where it names no version: the one that serves."""

    starts_at: float | None = None
    onset: float = 0.0
    """Since when the world is different."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Judgement:
    """A trigger's fate, and why."""

    fate: Fate
    code: str
    """The kind of reason, of a small fixed set, for metrics; empty for `accepted`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """Something that asked for a run, and its fate; what is alike within an hour is counted."""

    identity: str
    """Of the first of them."""

    source: Source
    name: str
    model_version: str
    starts_at: float | None
    fate: Fate
    reason: str
    run: str | None
    count: int
    first_at: float
    last_at: float

    @classmethod
    def of(cls, ask: Ask, judgement: Judgement, *, run: str | None, now: float) -> Trigger:
        """The trigger of an ask; what a client wrote is cut to a length that can be kept."""
        return cls(
            identity=ask.identity[:_LONGEST_NAME],
            source=ask.source,
            name=ask.name[:_LONGEST_NAME],
            model_version=(ask.model_version or "")[:_LONGEST_NAME],
            starts_at=ask.starts_at,
            fate=judgement.fate,
            reason=judgement.reason[:_LONGEST_REASON],
            run=run,
            count=ask.count,
            first_at=now,
            last_at=now,
        )
