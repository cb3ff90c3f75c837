"""The concurrent baseline: a second copy of stable, as young and as busy as the canary."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.rollout import Evidence
from coalmine.spec import RolloutSpec, StepSpec

from .conftest import POLICY, Stage

BESIDE = POLICY.model_copy(update={"baseline": True})


async def test_it_comes_and_goes_with_the_canary(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4", policy=BESIDE)
    arms_seen = []
    while stage.rollout(id).under_way:
        await stage.tick(1.0)
        arms_seen.append({a: m.version for a, m in stage.world.current().items()})
    assert stage.rollout(id).state == "promoted"
    weights = [dict(plan.weights) for plan in stage.world.history[1:]]
    assert weights == [
        {Arm.STABLE: 100},  # shadow
        {Arm.CANARY: 10, Arm.BASELINE: 10, Arm.STABLE: 80},
        {Arm.CANARY: 50, Arm.BASELINE: 50},
        {Arm.CANARY: 100},
        {Arm.STABLE: 100},
    ]
    assert {Arm.STABLE: "3", Arm.CANARY: "4", Arm.BASELINE: "3"} in arms_seen
    assert all(arms.get(Arm.BASELINE, "3") == "3" for arms in arms_seen)
    assert set(stage.world.current()) == {Arm.STABLE}


async def test_the_canary_is_judged_against_it(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4", shadow=False, policy=BESIDE)
    await stage.until_ended(id)
    judged = [e for e in stage.store.ledger(id) if "evidence" in e.body]
    evidence = Evidence.model_validate(judged[-1].body["evidence"])
    assert evidence.blocks
    assert {block.reference for block in evidence.blocks} == {Arm.BASELINE}


async def test_no_requests_without_it(stage: Stage) -> None:
    """A canary alone would be compared with stable, which is warm and busy."""
    await stage.with_champion()
    stage.world.arms_that_fail = {Arm.BASELINE}
    id = stage.start("4", shadow=False, policy=BESIDE)
    await stage.tick(20.0)
    assert stage.controller.note == "waiting for baseline to answer"
    assert Arm.CANARY not in stage.world.history[-1].weights
    stage.world.arms_that_fail = set()
    assert (await stage.until_ended(id)).state == "promoted"


def test_a_step_of_all_requests_is_no_comparison() -> None:
    steps = (StepSpec(weight=50), StepSpec(weight=100))
    assert RolloutSpec(baseline=True, steps=steps).steps == steps
    with pytest.raises(ValueError, match=r"steps\.0\.weight: 51"):
        RolloutSpec(baseline=True, steps=(StepSpec(weight=51),))
