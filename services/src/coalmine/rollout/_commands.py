"""What people and the retrainer may ask of a rollout. Every function blocks; any process may call
it.

A command only changes the persisted state; the controller, in this process or another, acts on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from coalmine.clock import Clock
from coalmine.rollout._errors import (
    CandidateUnavailable,
    RolloutError,
    RolloutMoved,
    RolloutRefused,
)
from coalmine.rollout._protocols import DeployedModel, ModelRegistry
from coalmine.rollout._state import Phase, Rollout, Serving, desired
from coalmine.rollout._store import Entry, Store
from coalmine.rollout._world import materialise
from coalmine.spec import RolloutSpec

__all__ = ["Command", "command", "start"]

Command = Literal["pause", "resume", "promote", "abort"]

_TRIES = 5


def start(
    store: Store,
    registry: ModelRegistry,
    *,
    version: str,
    policy: RolloutSpec,
    shadow: bool,
    reason: str,
    actor: str,
    clock: Clock,
) -> Rollout:
    """Begin a rollout of a registered version."""
    _refuse_second(store)
    candidate = _candidate(registry, version)
    serving = store.view().serving
    now = clock.time()
    if serving.stable is None:
        champion = registry.champion()
        if champion is not None:
            raise RolloutRefused(f"the champion, version {champion}, is not deployed yet")
    elif serving.stable.version == version:
        raise RolloutRefused(f"version {version} already serves")
    rejected = store.rejected_since(candidate.digest, now - policy.cooldown)
    if rejected is not None:
        id, ended = rejected
        raise RolloutRefused(
            f"version {version} has the content that {id} rolled back; it may be offered again in "
            f"{ended + policy.cooldown - now:.0f} s (rollout.cooldown is {policy.cooldown:.0f} s)"
        )
    rollout = Rollout(
        id=store.next_id(),
        candidate=candidate,
        stable=serving.stable,
        policy=policy,
        phase=_first_phase(serving.stable, policy, shadow=shadow),
        reason=reason,
        actor=actor,
        started=now,
        deadline=now + policy.max_duration,
    )
    body = {
        "reason": reason,
        "candidate": _named(candidate),
        "stable": None if serving.stable is None else _named(serving.stable),
        "policy": policy.model_dump(mode="json"),
        "config": rollout.config,
    }
    store.create(rollout, Entry("started", actor, desired(serving, rollout).plan, body))
    return rollout


def command(
    store: Store, id: str, what: Command, *, actor: str, clock: Clock, reason: str = ""
) -> Rollout:
    """Pause, resume, promote or abort a rollout; `RolloutRefused` where that is not possible."""
    body = {"reason": reason} if reason else {}
    by = f"{actor}: {reason}" if reason else actor
    change = _COMMANDS[what]
    for _ in range(_TRIES):
        rollout = store.rollout(id)
        changed = change(rollout, clock.time(), by)
        plan = desired(Serving(stable=rollout.stable), changed).plan
        try:
            return store.save(changed, Entry(what, actor, plan, body))
        except RolloutMoved:
            continue
    raise RolloutRefused(f"{id} is changing too quickly; try again")


def _refuse_second(store: Store) -> None:
    running = store.view().rollout
    if running is not None:
        raise RolloutRefused(
            f"{running.id} is under way with version {running.candidate.version}; "
            "one runs at a time"
        )


def _candidate(registry: ModelRegistry, version: str) -> DeployedModel:
    try:
        return materialise(registry, version)
    except RolloutError:
        raise
    except Exception as error:
        # Whatever the registry's own errors are: there is nothing to roll out.
        raise CandidateUnavailable(f"version {version}: {error}") from error


def _first_phase(stable: DeployedModel | None, policy: RolloutSpec, *, shadow: bool) -> Phase:
    if stable is None:
        return Phase.SETTLE
    if shadow and policy.shadow is not None:
        return Phase.SHADOW
    if policy.steps[0].weight == 100:
        raise RolloutRefused(
            "without a shadow stage and with 100 % as the first step nothing would be compared"
        )
    return Phase.STEP


def _named(model: DeployedModel) -> dict[str, str]:
    return {"version": model.version, "digest": model.digest}


def _pause(rollout: Rollout, now: float, by: str) -> Rollout:
    if not rollout.judged or rollout.held is not None:
        raise RolloutRefused(f"{rollout.id} is {rollout.state}: there is nothing to pause")
    return rollout.holding(f"paused by {by}")


def _resume(rollout: Rollout, now: float, by: str) -> Rollout:
    if rollout.held is None or not rollout.judged:
        raise RolloutRefused(f"{rollout.id} is {rollout.state}: it is not held")
    return rollout.resumed(now)


def _promote(rollout: Rollout, now: float, by: str) -> Rollout:
    if not rollout.judged:
        raise RolloutRefused(f"{rollout.id} is {rollout.state}: it is decided already")
    return rollout.promoted_by_hand(now, why=f"promoted by {by}")


def _abort(rollout: Rollout, now: float, by: str) -> Rollout:
    first = rollout.stable is None and rollout.phase is Phase.SETTLE
    if not (rollout.judged or first or rollout.phase in (Phase.SWITCH, Phase.REPLACE)):
        raise RolloutRefused(
            f"{rollout.id} is {rollout.state}: too late to abort; roll out another version instead"
        )
    return rollout.reverted(now, outcome="aborted", why=f"aborted by {by}")


_COMMANDS: dict[Command, Callable[[Rollout, float, str], Rollout]] = {
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "abort": _abort,
}
