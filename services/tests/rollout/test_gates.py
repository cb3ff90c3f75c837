"""Manual gates: a stage that is passed waits for a person, and evidence still counts meanwhile."""

from __future__ import annotations

import pytest

from coalmine.rollout import RolloutRefused
from coalmine.spec import RolloutSpec, ShadowSpec, StepSpec

from .conftest import POLICY, Stage

GATED = POLICY.model_copy(
    update={
        "steps": (
            StepSpec(weight=10, min_time=8.0, gate=True),
            StepSpec(weight=50, min_time=8.0),
        )
    }
)


async def at_gate(stage: Stage, policy: RolloutSpec = GATED) -> str:
    await stage.with_champion()
    id = stage.start("4", policy=policy)
    await stage.until(lambda: stage.rollout(id).at_gate)
    return id


async def test_a_passed_step_waits_for_a_person(stage: Stage) -> None:
    id = await at_gate(stage)
    for _ in range(2):
        await stage.tick(60.0)
        held = stage.rollout(id)
        assert (held.state, held.weight) == ("holding", 10)
        assert held.held == "step 1 of 2: 10 % is passed, and waits for a person"
        stage.restart()
        stage.clock.advance(15.0)
    stage.command(id, "resume")
    assert (await stage.until_ended(id)).state == "promoted"
    kinds = [entry.kind for entry in stage.store.ledger(id)]
    assert kinds.count("held") == kinds.count("resume") == 1


async def test_a_regression_at_the_gate_still_rolls_back(stage: Stage) -> None:
    id = await at_gate(stage)
    stage.traffic.accuracy["4"] = 0.2
    done = await stage.until_ended(id)
    assert (done.state, done.verdict) == ("rolled_back", "regression")


async def test_a_pause_is_not_an_approval(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4", policy=GATED)
    await stage.until(lambda: stage.rollout(id).weight == 10)
    stage.command(id, "pause")
    stage.command(id, "resume")
    await stage.until(lambda: stage.rollout(id).at_gate)
    with pytest.raises(RolloutRefused):
        stage.command(id, "pause")


async def test_the_shadow_and_the_promotion_have_gates(stage: Stage) -> None:
    policy = POLICY.model_copy(
        update={
            "shadow": ShadowSpec(min_time=8.0, gate=True),
            "steps": (StepSpec(weight=10, min_time=8.0, gate=True),),
        }
    )
    id = await at_gate(stage, policy)
    assert stage.rollout(id).weight == 0
    stage.command(id, "resume")
    await stage.until(lambda: stage.rollout(id).at_gate)
    assert stage.rollout(id).weight == 10
    stage.command(id, "resume")
    assert (await stage.until_ended(id)).state == "promoted"


@pytest.mark.parametrize(("command", "state"), [("promote", "promoted"), ("abort", "aborted")])
async def test_a_person_may_decide_at_the_gate(stage: Stage, command: str, state: str) -> None:
    id = await at_gate(stage)
    stage.command(id, command)  # type: ignore[arg-type]
    assert (await stage.until_ended(id)).state == state
