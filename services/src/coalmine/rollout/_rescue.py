"""The way back to stable without the rollout service: for when it hangs, or is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coalmine.clock import Clock
from coalmine.rollout._champion import FencedRegistry
from coalmine.rollout._commands import command
from coalmine.rollout._controller import Controller
from coalmine.rollout._errors import RolloutError, RolloutRefused
from coalmine.rollout._judge import Judge
from coalmine.rollout._protocols import ArmHost, ModelRegistry, Router
from coalmine.rollout._source import MonitorEvidence
from coalmine.rollout._state import Phase, Rollout
from coalmine.rollout._store import Store
from coalmine.rollout._world import World

__all__ = ["rescue"]

_TICK = 0.2
#: Nobody is asked for evidence on the way back.
_NOWHERE = "http://127.0.0.1:1"


async def rescue(
    database: Path,
    *,
    router: Router,
    host: ArmHost,
    registry: ModelRegistry,
    actor: str,
    reason: str,
    clock: Clock,
    patience: float = 120.0,
) -> Rollout:
    """Abort the rollout under way, and act as its controller until stable answers all requests.

    A controller that still acts does it itself. One that is silent loses the lease, at once if its
    process is gone and else when the lease has run out, and with it the right to write. Raises
    `RolloutRefused` if there is nothing to abort, `RolloutError` if it takes longer than `patience`
    seconds.
    """
    store = Store(database, clock=clock)
    source = MonitorEvidence(_NOWHERE)
    champion = FencedRegistry(registry, database.with_suffix(".champion"))
    world = World(router, host, champion)
    controller = Controller(store, world=world, judge=Judge(source, clock=clock), clock=clock)
    try:
        rollout = store.view().rollout
        if rollout is None:
            raise RolloutRefused("no rollout is under way")
        if rollout.phase is not Phase.REVERT:
            command(store, rollout.id, "abort", actor=actor, reason=reason, clock=clock)
        until = clock.monotonic() + patience
        while (found := store.rollout(rollout.id)).under_way:
            if clock.monotonic() >= until:
                raise RolloutError(
                    f"{rollout.id} is not back on stable after {patience:.0f} s: {controller.note}"
                )
            await controller.tick()
            await asyncio.sleep(_TICK)
        return found
    finally:
        await asyncio.to_thread(controller.let_go)
        await source.aclose()
        store.close()
