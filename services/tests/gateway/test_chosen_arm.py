"""A tester's header chooses the arm; without the option, no header does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from coalmine.arms import Arm
from coalmine.gateway import RoutePlan
from coalmine.spec import RoutingSpec

if TYPE_CHECKING:
    from .conftest import RunningGateway

PLAN = RoutePlan("d-1", {Arm.STABLE: 100, Arm.CANARY: 0}, (Arm.SHADOW, 0.5), "r-1")


async def asked(gateway: RunningGateway, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.post("/v1/x", headers=named)


@pytest.mark.parametrize("routing", [RoutingSpec(arm_header="x-arm")])
async def test_the_header_chooses_every_arm_that_has_a_model(gateway: RunningGateway) -> None:
    async with gateway.control() as control:
        await control.apply(PLAN)
        assert await control.applied() == PLAN
        for arm in ("canary", "shadow", "stable"):
            for _ in range(5):
                assert (await asked(gateway, x_arm=arm)).json()["arm"] == arm
        assert (await asked(gateway)).json()["arm"] == "stable"
        for wrong in ("baseline", "Canary", ""):
            refused = await asked(gateway, x_arm=wrong)
            assert refused.status_code == 404
            there_are = "there are: stable, canary, shadow"
            assert refused.json() == {
                "error": f"x-arm: names no arm that has a model now; {there_are}"
            }
        alone = RoutePlan("d-2", {Arm.STABLE: 100}, None, "r-1")
        await control.apply(alone)
        assert await control.applied() == alone
        assert (await asked(gateway, x_arm="canary")).status_code == 404


async def test_without_the_option_no_header_chooses(gateway: RunningGateway) -> None:
    async with gateway.control() as control:
        await control.apply(PLAN)
        assert (await asked(gateway, x_arm="canary")).json()["arm"] == "stable"


async def test_routing_that_was_edited_comes_into_force_with_the_same_plan(
    gateway: RunningGateway,
) -> None:
    async with gateway.control() as before:
        await before.apply(PLAN)
    gateway.routing = RoutingSpec(arm_header="x-arm")
    async with gateway.control() as after:
        found = await after.applied()
        assert found is not None
        assert found != PLAN
        assert found.weights == PLAN.weights
        await after.apply(PLAN)
        assert await after.applied() == PLAN
    assert (await asked(gateway, x_arm="canary")).json()["arm"] == "canary"


def test_one_header_cannot_be_both() -> None:
    with pytest.raises(ValueError, match="arm_header: x-user-id is the `sticky_header` already"):
        RoutingSpec(arm_header="x-user-id")
