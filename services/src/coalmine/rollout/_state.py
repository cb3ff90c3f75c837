"""The state of a rollout, its transitions, and what each state wants of the world.

A rollout is a frozen record; a transition returns a new one, which is persisted before anything is
done. What is then done follows from the record alone (`desired`), so a controller that was killed
at any instruction carries on by comparing the world with it::

    SHADOW --> STEP 0 --> STEP 1 ... --> SWITCH --> REPLACE --> SETTLE --> RECORD --> DONE
    (promoted)
      |          |          |              |           |
      +----------+----------+--------------+-----------+--> REVERT --> DONE (rolled_back, aborted)

    SHADOW   requests are mirrored to the candidate, its answers discarded
    STEP     the canary answers the step's share of requests, and so does the baseline, if any
    SWITCH   the canary answers all of them, so that the stable arm can be restarted
    REPLACE  the stable arm restarts with the candidate
    SETTLE   the stable arm answers all requests, the canary is retired; a first champion starts
    here RECORD   the registry learns of the new champion REVERT   stable answers all requests, the
    candidate's arms are retired
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from coalmine.arms import Arm
from coalmine.gateway import RoutePlan
from coalmine.rollout._decide import Policy, VerdictKind
from coalmine.rollout._evidence import Window
from coalmine.rollout._guard import Metric
from coalmine.rollout._protocols import DeployedModel
from coalmine.spec import GuardsSpec, RolloutSpec

__all__ = ["Desired", "Outcome", "Phase", "Rollout", "Serving", "State", "desired", "policy_of"]

State = Literal["pending", "shadowing", "stepping", "holding", "promoted", "rolled_back", "aborted"]
Outcome = Literal["promoted", "rolled_back", "aborted"]


class Phase(StrEnum):
    """Where in the drawing above a rollout is."""

    SHADOW = "shadow"
    STEP = "step"
    SWITCH = "switch"
    REPLACE = "replace"
    SETTLE = "settle"
    RECORD = "record"
    REVERT = "revert"
    DONE = "done"


#: The phases in which evidence is gathered.
_JUDGED = (Phase.SHADOW, Phase.STEP)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Serving(_Frozen):
    """What serves when no rollout runs."""

    stable: DeployedModel | None = None
    decision_id: str = "none"
    """The decision that made it so; the gateway's routes carry it."""

    salt: str = "0"


class Rollout(_Frozen):
    """One candidate's way. Times are seconds since the epoch."""

    id: str
    candidate: DeployedModel
    stable: DeployedModel | None
    """What serves beside it; None: there is no champion yet."""

    policy: RolloutSpec
    """As it was when the rollout started: a later edit of the service file is for the next one."""

    phase: Phase
    reason: str
    actor: str
    started: float
    deadline: float
    """When `on_insufficient` is done."""

    step: int = 0
    held: str | None = None
    """Why it does not go on by itself."""

    at_gate: bool = False
    """Whether it is held because the stage was passed, and a person has to let it go on."""

    approved: bool = False
    """Whether a person did, for the current stage."""

    windows: tuple[Window, ...] = ()
    verdict: VerdictKind | None = None
    outcome: Outcome | None = None
    why: str | None = None
    reverting_since: float | None = None
    """When the way back began; controllers that come later do not begin its patience anew."""

    ended: float | None = None
    revision: int = 0

    @property
    def state(self) -> State:
        """The state as others see it; an outcome shows when the world has reached it."""
        if self.phase is Phase.DONE and self.outcome is not None:
            return self.outcome
        if self.held is not None:
            return "holding"
        if not self.windows:
            return "pending"
        return "shadowing" if self.windows[-1].arm is Arm.SHADOW else "stepping"

    @property
    def judged(self) -> bool:
        """Whether evidence decides what happens next."""
        return self.phase in _JUDGED

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.phase is not Phase.DONE

    @property
    def gated(self) -> bool:
        """Whether passing the current stage is not enough to go on."""
        if self.approved:
            return False
        if self.phase is Phase.SHADOW:
            return self.policy.shadow is not None and self.policy.shadow.gate
        return self.phase is Phase.STEP and self.policy.steps[self.step].gate

    @property
    def arm(self) -> Arm:
        """Where the candidate is while it is judged."""
        return Arm.SHADOW if self.phase is Phase.SHADOW else Arm.CANARY

    @property
    def open_window(self) -> Window | None:
        """The window of the current stage, once the routes are confirmed."""
        last = self.windows[-1] if self.windows else None
        return last if last is not None and last.closed_at is None else None

    @property
    def stage(self) -> str:
        """The phase in words, for a person."""
        if self.phase is Phase.STEP:
            return f"step {self.step + 1} of {len(self.policy.steps)}: {self.weight} %"
        return self.phase.value

    @property
    def weight(self) -> int:
        """The canary's percent."""
        if self.phase is Phase.STEP:
            return self.policy.steps[self.step].weight
        return 100 if self.phase in (Phase.SWITCH, Phase.REPLACE) else 0

    @property
    def baseline(self) -> int:
        """The percent of the second copy of stable: the canary's, while the two are compared."""
        return self.weight if self.phase is Phase.STEP and self.policy.baseline else 0

    @property
    def config(self) -> str:
        """The digest of the policy it runs by."""
        return "sha256:" + hashlib.sha256(self.policy.model_dump_json().encode()).hexdigest()

    # -- transitions ------------------------------------------------------------------------------

    def _to(self, **changes: Any) -> Self:
        return self.model_copy(update=changes)

    def opened(self, now: float) -> Self:
        """The data plane has confirmed the stage: from now on its evidence counts."""
        weights = dict(desired(Serving(), self).plan.weights)
        opened = Window(arm=self.arm, opened_at=now, weights=weights)
        return self._to(windows=(*self.windows, opened))

    def passed(self, now: float) -> Self:
        """The stage was passed: on to the next."""
        closed = self._closed(now)._to(approved=False)
        if self.phase is Phase.SHADOW:
            upcoming = 0
        elif self.phase is Phase.STEP:
            upcoming = self.step + 1
        else:
            order = (Phase.SWITCH, Phase.REPLACE, Phase.SETTLE, Phase.RECORD)
            return self._to(phase=order[order.index(self.phase) + 1])
        return closed._enter(upcoming)

    def promoted_by_hand(self, now: float, *, why: str) -> Self:
        """Somebody decided without waiting for evidence."""
        return self._closed(now)._to(phase=Phase.SWITCH, held=None, at_gate=False, why=why)

    def reverted(self, now: float, *, outcome: Outcome, why: str) -> Self:
        """Back to stable."""
        back = self._closed(now)._to(held=None, at_gate=False)
        return back._to(phase=Phase.REVERT, outcome=outcome, why=why, reverting_since=now)

    def holding(self, why: str) -> Self:
        """Stay at this weight until somebody decides; a regression still rolls back."""
        return self._to(held=why)

    def waiting_at_gate(self) -> Self:
        """The stage is passed; stay at its weight until a person lets it go on."""
        return self._to(held=f"{self.stage} is passed, and waits for a person", at_gate=True)

    def resumed(self, now: float) -> Self:
        """Go on, with the whole time again; at a gate, through it."""
        deadline = now + self.policy.max_duration
        approved = self.approved or self.at_gate
        return self._to(held=None, at_gate=False, approved=approved, deadline=deadline)

    def judged_as(self, verdict: VerdictKind) -> Self:
        """Remember the latest verdict."""
        return self._to(verdict=verdict)

    def finished(self, now: float) -> Self:
        """The world has reached the outcome."""
        outcome = "promoted" if self.phase is Phase.RECORD else self.outcome
        return self._to(phase=Phase.DONE, outcome=outcome, ended=now)

    def _enter(self, step: int) -> Self:
        if step == len(self.policy.steps) or self.policy.steps[step].weight == 100:
            return self._to(phase=Phase.SWITCH)
        return self._to(phase=Phase.STEP, step=step)

    def _closed(self, now: float) -> Self:
        window = self.open_window
        if window is None:
            return self
        closed = window.model_copy(update={"closed_at": now})
        return self._to(windows=(*self.windows[:-1], closed))


def policy_of(rollout: Rollout) -> Policy:
    """What the current stage asks of the evidence."""
    spec = rollout.policy
    if rollout.phase is Phase.SHADOW:
        straight = spec.steps[0].weight == 100
        return Policy(
            guards=spec.guards,
            significance=spec.significance,
            needs=_needs_in_shadow(spec.guards, straight=straight),
            paired=True,
            min_seconds=0.0 if spec.shadow is None else spec.shadow.min_time,
        )
    following = spec.steps[rollout.step + 1 :]
    return Policy(
        guards=spec.guards,
        significance=spec.significance,
        paired=any(window.arm is Arm.SHADOW for window in rollout.windows),
        exposure=following[0].weight / 100 if following else 1.0,
        min_seconds=spec.steps[rollout.step].min_time,
    )


def _needs_in_shadow(guards: GuardsSpec, *, straight: bool) -> tuple[Metric, ...]:
    """What the shadow stage has to show of the answers that nobody gets."""
    answers: tuple[Metric, ...] = ("accuracy", "prediction_drift")
    needs = tuple(each for each in answers if getattr(guards, each) is not None)
    # Errors and latency of real answers are judged in the steps, if there are any.
    alone = straight or not needs
    return ("error_rate", *needs) if alone and guards.error_rate is not None else needs


@dataclass(frozen=True, slots=True)
class Desired:
    """How the world should be: brought about in this order: arms, routes, then arms retired."""

    arms: dict[Arm, DeployedModel]
    plan: RoutePlan


def desired(serving: Serving, rollout: Rollout | None) -> Desired:
    """What the persisted state wants of the world."""
    if rollout is None or not rollout.under_way:
        return _settled(serving.stable, serving.decision_id, salt=serving.salt)
    candidate, stable = rollout.candidate, rollout.stable
    if rollout.phase in (Phase.SETTLE, Phase.RECORD):
        return _settled(candidate, f"{rollout.id}.settle", salt=rollout.id)
    if rollout.phase is Phase.REVERT or stable is None:
        return _settled(stable, f"{rollout.id}.revert", salt=rollout.id)
    mirror = None
    if rollout.phase is Phase.SHADOW:
        name, arms = "shadow", {Arm.STABLE: stable, Arm.SHADOW: candidate}
        shadow = rollout.policy.shadow
        # The data plane counts in millionths; what it shows must equal what was asked for.
        share = 1.0 if shadow is None else max(round(shadow.fraction, 6), 1e-6)
        mirror = (Arm.SHADOW, share)
    elif rollout.phase is Phase.STEP:
        name, arms = f"step-{rollout.step + 1}", {Arm.STABLE: stable, Arm.CANARY: candidate}
        if rollout.baseline:
            arms[Arm.BASELINE] = stable
    else:
        name = "switch"
        first = stable if rollout.phase is Phase.SWITCH else candidate
        arms = {Arm.STABLE: first, Arm.CANARY: candidate}
    beside = rollout.baseline
    stays = 100 - rollout.weight - beside
    weights = {Arm.CANARY: rollout.weight, Arm.BASELINE: beside, Arm.STABLE: stays}
    plan = RoutePlan(
        f"{rollout.id}.{name}",
        {arm: weight for arm, weight in weights.items() if weight},
        mirror=mirror,
        salt=rollout.id,
    )
    return Desired(arms, plan)


def _settled(stable: DeployedModel | None, decision_id: str, *, salt: str) -> Desired:
    if stable is None:
        return Desired({}, RoutePlan(decision_id, {}, salt=salt))
    return Desired({Arm.STABLE: stable}, RoutePlan(decision_id, {Arm.STABLE: 100}, salt=salt))
