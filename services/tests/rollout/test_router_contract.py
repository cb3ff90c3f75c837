"""What every router promises the controller: each check against each of the four data planes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from coalmine.arms import Arm
from coalmine.fencing import FencedOff
from coalmine.gateway import GatewayError, GatewayUnavailable, RouteNotApplied, RoutePlan

from ..gateway.conftest import Process, RunningGateway, gateway, routing, upstreams  # noqa: F401
from .data_planes import DataPlane, Envoy, OnCluster, OwnRoute, Serverless, Standard

#: The clusters once with controllers that act at every reading, once with ones that lag behind.
KINDS = (
    "envoy",
    *(
        f"{kind}{lag}"
        for kind in ("serverless", "standard", "httproute")
        for lag in ("", "-lagging")
    ),
)


@pytest.fixture
def plane(request: pytest.FixtureRequest) -> Iterator[DataPlane]:
    if request.param == "envoy":
        arms: dict[Arm, Process] = request.getfixturevalue("upstreams")
        yield Envoy(request.getfixturevalue("gateway"), arms)
        for arm in arms.values():
            if not arm.running:
                arm.start()
        return
    kinds: dict[str, type[OnCluster]] = {
        "serverless": Serverless,
        "standard": Standard,
        "httproute": OwnRoute,
    }
    kind, _, lagging = request.param.partition("-")
    made = kinds[kind]()
    try:
        made.deploy()
        made.cluster.lag = 5 if lagging else 0
        yield made
    finally:
        made.close()


def plan(canary: int, decision: str | None = None) -> RoutePlan:
    weights = {Arm.STABLE: 100 - canary, Arm.CANARY: canary}
    return RoutePlan(
        decision or f"r1.step-{canary}",
        {arm: weight for arm, weight in weights.items() if weight},
        salt="r1",
    )


def expected(canary: int) -> dict[Arm, int]:
    return dict(plan(canary).weights)


async def told(router: Any) -> RoutePlan | None:
    """What the router believes; None if it knows that it does not know."""
    try:
        found: RoutePlan | None = await router.applied()
        return found
    except GatewayUnavailable:
        return None


async def check_every_weight_is_reached_and_acknowledged(plane: DataPlane) -> None:
    async with plane.router() as router:
        for canary in (0, 10, 50, 100, 50, 0):
            await router.apply(plan(canary))
            assert await plane.reached() == expected(canary)
            assert await router.applied() == plan(canary)


async def check_applying_again_changes_nothing(plane: DataPlane) -> None:
    async with plane.router() as router:
        await router.apply(plan(10))
        await asyncio.gather(router.apply(plan(10)), router.apply(plan(10)))
        assert await router.applied() == plan(10)
        assert await plane.reached() == expected(10)


async def check_a_new_decision_with_the_same_weights_is_told(plane: DataPlane) -> None:
    async with plane.router() as router:
        await router.apply(plan(10, "r1.step-1"))
        await router.apply(plan(10, "r2.step-1"))
        assert await router.applied() == plan(10, "r2.step-1")


async def check_what_was_not_taken_up_is_not_believed(plane: DataPlane) -> None:
    async with plane.router() as router, plane.router(timeout=0.4) as hasty:
        await router.apply(plan(10))
        with plane.stalled():
            with pytest.raises(RouteNotApplied, match=r"r1\.step-50: after 0\.4 s"):
                await hasty.apply(plan(50))
            assert await told(hasty) != plan(50)
        await router.apply(plan(50))
        assert await router.applied() == plan(50)
        assert await plane.reached() == expected(50)


async def check_a_previous_acknowledgement_is_not_taken_for_the_new_one(plane: DataPlane) -> None:
    """There and back: what the data plane showed for the first is no answer to the third."""
    async with plane.router() as router, plane.router(timeout=0.3) as hasty:
        await router.apply(plan(10))
        with plane.stalled(), pytest.raises(RouteNotApplied):
            await hasty.apply(plan(50))
        await router.apply(plan(10))
        assert await plane.reached() == expected(10)
        assert await router.applied() == plan(10)


async def check_stable_is_reached_from_every_weight(plane: DataPlane) -> None:
    async with plane.router() as router:
        for canary in (10, 50, 100):
            await router.apply(plan(canary))
            await router.apply(plan(0, "r1.revert"))
            assert await plane.reached() == expected(0)
            assert await router.applied() == plan(0, "r1.revert")


async def check_stable_is_reached_with_a_broken_canary(plane: DataPlane) -> None:
    async with plane.router() as router:
        await router.apply(plan(50))
        plane.break_canary()
        await router.apply(plan(0, "r1.revert"))
        assert await plane.reached() == expected(0)
        assert await router.applied() == plan(0, "r1.revert")


async def check_two_writers_do_not_both_believe_they_won(plane: DataPlane) -> None:
    async with plane.router(timeout=2.0) as one, plane.router(timeout=2.0) as other:
        await one.apply(plan(0))
        await asyncio.gather(
            one.apply(plan(10, "one")), other.apply(plan(50, "other")), return_exceptions=True
        )
        believed = [await told(one) == plan(10, "one"), await told(other) == plan(50, "other")]
        assert believed != [True, True]
        if believed[0]:
            assert await plane.reached() == expected(10)
        if believed[1]:
            assert await plane.reached() == expected(50)
        await one.apply(plan(0))
        assert await plane.reached() == expected(0)


async def check_a_restart_in_the_middle_converges(plane: DataPlane) -> None:
    async with plane.router() as router:
        await router.apply(plan(10))
        for delay in (0.0, 0.005, 0.02, 0.05):
            dying = asyncio.create_task(router.apply(plan(50)))
            await asyncio.sleep(delay)
            dying.cancel()
            await asyncio.gather(dying, return_exceptions=True)
            async with plane.router() as next_one:
                await next_one.apply(plan(50))
                assert await next_one.applied() == plan(50)
                assert await plane.reached() == expected(50)
                await next_one.apply(plan(10))


async def check_a_fresh_process_knows_the_weights(plane: DataPlane) -> None:
    async with plane.router() as router:
        await router.apply(plan(10))
    async with plane.router() as restarted:
        found = await restarted.applied()
        assert found is not None
        assert dict(found.weights) == expected(10)


async def check_a_weight_nobody_decided_is_seen_and_corrected(plane: DataPlane) -> None:
    async with plane.router() as router:
        await router.apply(plan(10))
        plane.tamper({Arm.STABLE: 30, Arm.CANARY: 70})
        for _ in range(200):
            if await told(router) != plan(10):
                break
            await asyncio.sleep(0.02)
        assert await told(router) != plan(10)
        await router.apply(plan(10))
        assert await plane.reached() == expected(10)
        assert await router.applied() == plan(10)


async def check_an_arm_it_does_not_have_is_refused(plane: DataPlane) -> None:
    async with plane.router(timeout=1.0) as router:
        await router.apply(plan(10))
        with pytest.raises(GatewayError, match="baseline"):
            await router.apply(RoutePlan("r1.x", {Arm.STABLE: 50, Arm.BASELINE: 50}, salt="r1"))
        assert await router.applied() == plan(10)
        assert await plane.reached() == expected(10)


async def check_who_was_overtaken_writes_nothing(plane: DataPlane) -> None:
    async with plane.router() as one, plane.router() as other:
        await asyncio.to_thread(one.claim, 1)
        await one.apply(plan(10))
        await asyncio.to_thread(other.claim, 2)
        for percent in (50, 0):
            with pytest.raises(FencedOff, match="controller 2 has taken over from 1"):
                await one.apply(plan(percent))
        assert await plane.reached() == expected(10)
        assert await other.applied() is not None
        await other.apply(plan(50))
        with pytest.raises(FencedOff):
            await asyncio.to_thread(one.claim, 1)
        assert await plane.reached() == expected(50)


async def check_who_was_overtaken_in_the_middle_writes_nothing(plane: DataPlane) -> None:
    """Stopped with what it wanted unwritten, and awake again after another has taken over."""
    async with plane.router() as one, plane.router() as other:
        await asyncio.to_thread(one.claim, 1)
        await one.apply(plan(10))
        with plane.stalled():
            asleep = asyncio.create_task(one.apply(plan(50)))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(other.claim, 2)
        await other.apply(plan(0, "r1.revert"))
        outcome = (await asyncio.gather(asleep, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, (FencedOff, GatewayError))
        assert await plane.reached() == expected(0)
        assert await other.applied() == plan(0, "r1.revert")


Check = Callable[[DataPlane], Awaitable[None]]
CHECKS: list[Check] = [check for name, check in globals().items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("plane", KINDS, indirect=True)
async def test_router(plane: DataPlane, check: Check) -> None:
    await check(plane)
