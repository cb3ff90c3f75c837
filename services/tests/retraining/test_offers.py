"""The offer of a new version to the rollout: made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalmine.retraining import MlflowRegistry

from .conftest import (
    ONSET,
    World,
    alert,
    fill_log,
    finished,
    make_service,
    model_directory,
    retrainer,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


async def test_a_rollout_is_started_once_though_the_answer_was_lost(
    state: Path, world: World
) -> None:
    fill_log(state, since=ONSET)
    world.forget_answer = True
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "promote")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["outcome"], run["rollout"]) == ("promoted-to-rollout", "ro-1")
    assert len(world.offers) == 1


async def test_an_offer_waits_for_a_rollout_that_came_between(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    world.refusal = "a rollout of version 9 is under way"
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "promote")
        await until(client, "/v1/runs", lambda b: b["runs"] and b["runs"][0]["state"] == "running")
        world.rollouts.append({"id": "ro-9", "version": "9", "state": "stepping"})
        await until(client, "/v1/runs", lambda b: b["runs"][0]["state"] == "offering")
        world.rollouts[0]["state"] = "promoted"
        world.refusal = None
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "promoted-to-rollout"


async def test_a_version_that_the_rollout_will_not_have_is_rejected(
    state: Path, world: World, registry: MlflowRegistry, tmp_path: Path
) -> None:
    from coalmine.retraining import register_directory

    fill_log(state, since=ONSET)
    directory = model_directory(tmp_path / "second", content=b"another")
    register_directory(registry, directory, run="second", reason="another")  # what will be offered
    world.refusal = "this digest was rolled back an hour ago"
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "promote")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "rejected"
    assert "rolled back an hour ago" in run["error"]
    assert registry.version("2").tags["status"] == "rejected"
