"""Every weight that Envoy had in force, and whether somebody had decided it before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coalmine.clock import SYSTEM_CLOCK
from coalmine.gateway import EnvoyGateway, GatewayError, RoutePlan
from coalmine.rollout._store import Store
from coalmine_loadtests.rollout._ground import Ground

__all__ = ["Watch"]

_POLL = 0.04


@dataclass
class Watch:
    """What the gateway's admin port shows, at every few milliseconds."""

    ground: Ground
    seen: list[tuple[float, RoutePlan]] = field(default_factory=list)
    """Each plan, with the time (seconds since the epoch) at which it was seen first."""

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch while this lasts."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        ground = self.ground
        async with EnvoyGateway(
            ground.envoy, admin_url=ground.admin_url, routing=ground.routing
        ) as gateway:
            while True:
                try:
                    plan = await gateway.applied()
                except GatewayError:
                    plan = None
                if plan is not None and (not self.seen or self.seen[-1][1] != plan):
                    self.seen.append((SYSTEM_CLOCK.time(), plan))
                await asyncio.sleep(_POLL)

    def undecided(self, store: Store) -> list[str]:
        """The plans that the ledger did not have when they were seen."""
        decided: dict[tuple[str, str], float] = {}
        for entry in store.ledger():
            routes = entry.body["routes"]
            weights = {arm: share for arm, share in routes["weights"].items() if share}
            key = (entry.decision, f"{sorted(weights.items())} {routes['mirror']}")
            decided.setdefault(key, entry.time)
        wrong = []
        for at, plan in self.seen:
            if not plan.weights:
                continue  # Of a gateway that nobody has told anything.
            weights = {arm.value: share for arm, share in plan.weights.items() if share}
            mirror = None if plan.mirror is None else [plan.mirror[0].value, plan.mirror[1]]
            known = decided.get((plan.decision_id, f"{sorted(weights.items())} {mirror}"))
            if known is None or known > at:
                wrong.append(f"{at:.3f}: {plan.decision_id} {weights} mirror {mirror}")
        return wrong
