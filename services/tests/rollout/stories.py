"""Rollouts that end in each outcome, quickly, and what must be so at the end whatever happened."""

from __future__ import annotations

import time
from dataclasses import dataclass

from coalmine.arms import Arm
from coalmine.rollout._state import Phase, Rollout, Serving, desired
from coalmine.rollout._store import Store
from coalmine.spec import GuardsSpec, RolloutSpec, ShadowSpec, StepSpec

from .fakes import FileWorld

QUICK = RolloutSpec(
    shadow=ShadowSpec(min_time=2.0),
    steps=(StepSpec(weight=10, min_time=2.0), StepSpec(weight=50, min_time=2.0)),
    guards=GuardsSpec(error_rate=0.2, slow_rate=0.8, tail_rate=None, accuracy=0.2),
    max_duration=3600.0,
)


class FastClock:
    """Many seconds to the second."""

    def __init__(self, speed: float = 20.0) -> None:
        self._speed = speed

    def time(self) -> float:
        return time.time() * self._speed

    def monotonic(self) -> float:
        return time.monotonic() * self._speed


@dataclass(frozen=True)
class Story:
    name: str
    accuracy: float
    """Of the candidate; stable has 0.6."""

    shadow: bool
    outcome: str
    champion: str
    aborted_in: str | None = None
    """The phase in which somebody aborts it."""

    baseline: bool = False

    @property
    def policy(self) -> RolloutSpec:
        return QUICK.model_copy(update={"baseline": self.baseline})


STORIES = (
    Story("good", 0.95, shadow=True, outcome="promoted", champion="4", baseline=True),
    Story("broken", 0.1, shadow=False, outcome="rolled_back", champion="3", baseline=True),
    Story("abort", 0.95, shadow=False, outcome="aborted", champion="3", aborted_in="replace"),
)


def check_end(story: Story, world: FileWorld, store: Store) -> None:
    """The world is as the story says, and everything that was routed had been decided."""
    newest = store.rollouts()[0]
    assert newest.state == story.outcome, f"{newest.state}: {newest.why}"
    assert world.champion() == story.champion
    current = {arm: model.version for arm, model in world.current().items()}
    assert current == {Arm.STABLE: story.champion}
    plans = [plan for _, plan in world.plans()]
    assert dict(plans[-1].weights) == {Arm.STABLE: 100}
    assert plans[-1].mirror is None
    complaints = world.root / "misrouted.log"
    assert not complaints.exists(), complaints.read_text()
    for plan in plans:
        assert plan in decided(store), "a plan that nobody decided"


def decided(store: Store) -> list[object]:
    """Every plan that a rollout's persisted states ask for."""
    allowed: list[object] = [desired(Serving(), None).plan]
    for rollout in store.rollouts():
        allowed += [desired(Serving(), each).plan for each in _phases(rollout)]
    return allowed


def _phases(rollout: Rollout) -> list[Rollout]:
    others = (Phase.SHADOW, Phase.SWITCH, Phase.REPLACE, Phase.SETTLE, Phase.REVERT)
    return [
        *(rollout.model_copy(update={"phase": Phase.STEP, "step": i}) for i in range(2)),
        *(rollout.model_copy(update={"phase": phase}) for phase in others),
    ]
