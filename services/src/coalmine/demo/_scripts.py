"""What each scenario waits for, and how long: the schedule of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coalmine.demo._expectations import FAULTY_FEATURE
from coalmine.demo._options import Scenario
from coalmine.demo._watcher import Watcher

__all__ = ["SCRIPTS", "Script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The times of one scenario in seconds, and the reaction that ends its middle phase."""

    reacted: Callable[[Watcher, str | None], bool]
    """Whether the loop has done what it must, given the watcher and the stable version before."""

    awaited: str
    """The reaction in words."""

    deadline_s: float
    """The middle phase ends here though the reaction is missing; the checks then tell."""

    at_least_s: float = 0.0
    """The middle phase lasts this long though the reaction was quicker."""

    after_s: float = 25.0
    """The last phase, at least."""

    compares_accuracy: bool = True
    """Whether the last phase goes on until its accuracy is known well enough to be compared."""


def _promoted_another(watcher: Watcher, stable: str | None) -> bool:
    return any(
        rollout.state == "promoted" and rollout.version != stable
        for rollout in watcher.rollouts.values()
    )


def _drift_reported(watcher: Watcher, _: str | None) -> bool:
    return any(incident.kind == "drift" for incident in watcher.incidents.values())


def _fault_named(watcher: Watcher, _: str | None) -> bool:
    return any(
        incident.kind == "data_quality" and any(f.name == FAULTY_FEATURE for f in incident.features)
        for incident in watcher.incidents.values()
    )


def _rolled_back(watcher: Watcher, stable: str | None) -> bool:
    return any(
        rollout.state in ("rolled_back", "aborted") and rollout.version != stable
        for rollout in watcher.rollouts.values()
    )


def _never(_: Watcher, __: str | None) -> bool:
    return False


#: A label takes ten days of the workshop at most, that is twenty seconds: a monitor that is silent
#: that long after the change has seen the labels, and had time to be wrong about them.
_LABELS_MATURE_S = 25.0

SCRIPTS: Mapping[Scenario, Script] = {
    Scenario.CHEMISTRY: Script(
        reacted=_promoted_another, awaited="a retrained model is promoted", deadline_s=400.0
    ),
    Scenario.COLD: Script(
        reacted=_drift_reported,
        awaited="the drift is reported",
        deadline_s=60.0,
        at_least_s=_LABELS_MATURE_S,
    ),
    Scenario.SENSOR_FAULT: Script(
        reacted=_fault_named,
        awaited=f"a data fault names {FAULTY_FEATURE}",
        deadline_s=60.0,
        at_least_s=_LABELS_MATURE_S,
        compares_accuracy=False,
    ),
    Scenario.BAD_CANDIDATE: Script(
        reacted=_rolled_back, awaited="the candidate is rolled back", deadline_s=150.0
    ),
    Scenario.NONE: Script(
        reacted=_never,
        awaited="nothing",
        deadline_s=_LABELS_MATURE_S,
        at_least_s=_LABELS_MATURE_S,
    ),
}
