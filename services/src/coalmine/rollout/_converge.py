"""Making the world as it should be: arms, then routes, then the arms that are not needed any more.

Before break, make: nothing is routed to an arm that does not answer, and no arm is retired that is
routed to. Each step is asked for only where the world differs, so repeating it is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coalmine.arms import Arm
from coalmine.rollout._protocols import ArmHost, Router
from coalmine.rollout._state import Desired

__all__ = ["Converged", "converge"]

#: Longest application of a plan; shorter than the lease lives.
_ROUTE_LIMIT = 20.0


@dataclass(frozen=True, slots=True)
class Converged:
    """How far the world is from what is desired."""

    waiting: tuple[Arm, ...]
    """Arms that do not answer yet with the version they should."""

    done: bool


async def converge(
    wish: Desired,
    *,
    router: Router,
    host: ArmHost,
    assure: Callable[[], Awaitable[None]],
    impatient: bool = False,
) -> Converged:
    """Go as far as possible now. `assure` is awaited before each effect, and raises to forbid it.

    `impatient`: route by the plan although arms do not answer; a way back must not wait for ever.
    """
    current = await asyncio.to_thread(host.current)
    for arm, model in wish.arms.items():
        if current.get(arm) != model:
            await assure()
            await asyncio.to_thread(host.deploy, arm, model)
    answers = await asyncio.gather(*(host.ready(a, m.version) for a, m in wish.arms.items()))
    waiting = tuple(arm for arm, ready in zip(wish.arms, answers, strict=True) if not ready)
    if waiting and not impatient:
        return Converged(waiting, done=False)
    if await router.applied() != wish.plan:
        await assure()
        async with asyncio.timeout(_ROUTE_LIMIT):
            await router.apply(wish.plan)
    for arm in current.keys() - wish.arms.keys():
        await assure()
        await asyncio.to_thread(host.retire, arm)
    return Converged(waiting, done=True)
