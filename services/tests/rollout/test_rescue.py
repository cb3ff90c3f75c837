"""Back to stable without the rollout service."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.rollout import RolloutRefused, rescue
from coalmine.rollout._state import Rollout

from .conftest import Stage


async def rescued(stage: Stage) -> Rollout:
    return await rescue(
        stage.database,
        router=stage.world,
        host=stage.world,
        registry=stage.world,
        actor="on call",
        reason="the controller is gone",
        clock=stage.clock,
    )


async def test_a_rollout_whose_controller_is_gone_goes_back_to_stable(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4", shadow=False)
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    gone = stage.controller
    stage.die()

    done = await rescued(stage)

    assert (done.id, done.state) == (id, "aborted")
    assert dict(stage.world.history[-1].weights) == {Arm.STABLE: 100}
    assert set(stage.world.current()) == {Arm.STABLE}
    assert "on call" in [entry.actor for entry in stage.store.ledger(id)]
    plans = len(stage.world.history)
    await gone.tick()
    stage.clock.advance(3.0)
    await gone.tick()
    assert not gone.acting
    await stage.tick(5.0)
    assert len(stage.world.history) == plans, "whoever comes next has nothing to do"


async def test_without_a_rollout_there_is_nothing_to_abort(stage: Stage) -> None:
    await stage.with_champion()
    with pytest.raises(RolloutRefused, match="no rollout is under way"):
        await rescued(stage)
