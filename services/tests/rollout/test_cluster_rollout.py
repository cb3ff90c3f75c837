"""Whole rollouts on each kind of cluster, with the real controller, troubles and deaths."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coalmine.arms import Arm
from coalmine.clock import ManualClock
from coalmine.gateway import RoutePlan
from coalmine.rollout import DeployedModel, RolloutRefused

from .api_server import Fault
from .conftest import Stage
from .controllers import ISVC, ROUTE
from .data_planes import NAME, OnCluster, OwnRoute, Serverless, Standard, uri
from .fakes import FileWorld, Traffic
from .stories import QUICK, STORIES, Story

KINDS = (Serverless, Standard, OwnRoute)
#: Of the deaths and troubles. Others, for a person: COALMINE_SEEDS=100:150.
SEEDS = (
    range(*map(int, os.environ["COALMINE_SEEDS"].split(":")))
    if "COALMINE_SEEDS" in os.environ
    else [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
#: What may ever be routed: nothing else is decided in these stories.
DECIDED = [
    {uri("0"): 100},
    {uri("3"): 100},
    {uri("3"): 90, uri("4"): 10},
    {uri("3"): 50, uri("4"): 50},
    {uri("4"): 100},
]


@dataclass
class ClusterWorld(FileWorld):
    """The registry is files, as before; router and arms are a cluster's."""

    plane: OnCluster = field(kw_only=True)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._router = self.plane.router(timeout=2.0)

    def claim(self, token: int) -> None:
        self._router.claim(token)

    async def apply(self, plan: RoutePlan) -> None:
        await self._router.apply(plan)
        routes = self._read("routes.json", [])
        weights = {arm.value: weight for arm, weight in plan.weights.items()}
        entry = {"decision_id": plan.decision_id, "weights": weights, "mirror": plan.mirror}
        self._write("routes.json", [*routes, {"time": self.clock.time(), "salt": "0", **entry}])

    async def applied(self) -> RoutePlan | None:
        return await self._router.applied()

    def deploy(self, arm: Arm, model: DeployedModel) -> None:
        self._router.deploy(arm, model)

    def retire(self, arm: Arm) -> None:
        self._router.retire(arm)

    def current(self) -> dict[Arm, DeployedModel]:
        return self._router.current()

    async def ready(self, arm: Arm, version: str) -> bool:
        return await self._router.ready(arm, version)


@dataclass
class Play:
    """One cluster, one controller on it."""

    plane: OnCluster
    world: ClusterWorld
    stage: Stage
    seen: list[dict[str, int]] = field(default_factory=list)

    def watch(self) -> None:
        """Note what requests reach at every moment from now on."""
        moment = self.plane.cluster.api.on_read

        def noting() -> None:
            moment()
            shares = self.plane.cluster.shares(NAME)
            if not self.seen or self.seen[-1] != shares:
                self.seen.append(shares)

        self.plane.cluster.api.on_read = noting


@pytest.fixture
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Play]:
    plane: OnCluster = request.param()
    clock = ManualClock(start=1_000_000.0)
    world = ClusterWorld(tmp_path / "world", clock, plane=plane)
    for version in ("3", "4"):
        world.add_version(version)
    traffic = Traffic(world, clock, accuracy={"3": 0.6, "4": 0.95})
    # Only our own route can mirror.
    without = QUICK.model_copy(update={"shadow": None})
    with_all = QUICK.model_copy(update={"baseline": True})
    with_baseline = without.model_copy(update={"baseline": True})
    policy = {OwnRoute: with_all, Standard: with_baseline}.get(request.param, without)
    made = Play(plane, world, Stage(tmp_path, clock, world, traffic, policy=policy))
    made.watch()
    try:
        yield made
    finally:
        made.stage.close()
        plane.close()


def kinds() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("play", KINDS, indirect=True, ids=lambda kind: kind.__name__)


@kinds()
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_rollout_ends_as_it_should(play: Play, story: Story) -> None:
    stage = play.stage
    stage.traffic.accuracy["4"] = story.accuracy
    await stage.with_champion()
    assert play.plane.cluster.shares(NAME) == {uri("3"): 100}
    id = stage.start("4", shadow=story.shadow)
    if story.aborted_in:
        await stage.until(lambda: stage.rollout(id).phase == story.aborted_in, step=0.5)
        stage.command(id, "abort")
    done = await stage.until_ended(id)
    await stage.tick(3.0)

    assert done.state == story.outcome, done.why
    assert play.plane.cluster.shares(NAME) == {uri(story.champion): 100}
    assert set(play.world.current()) == {Arm.STABLE}
    assert all(shares in DECIDED for shares in play.seen), play.seen


@kinds()
async def test_a_candidate_that_does_not_start_is_given_up(play: Play) -> None:
    await play.stage.with_champion()
    play.plane.cluster.broken.add(uri("4"))
    done = await play.stage.until_ended(play.stage.start("4", shadow=False), limit=400)
    await play.stage.tick(3.0)
    assert done.state == "aborted"
    assert play.plane.cluster.shares(NAME) == {uri("3"): 100}
    assert {uri("4"): 100} not in play.seen


@kinds()
@pytest.mark.parametrize("times", [1, 2])
async def test_a_model_put_there_by_hand_is_replaced_by_the_champion(
    play: Play, times: int
) -> None:
    await play.stage.with_champion()
    service = f"{NAME}-stable" if isinstance(play.plane, OwnRoute) else NAME
    for version in range(8, 8 + times):
        model = {"storageUri": uri(str(version))}
        play.plane.edit(ISVC, service, lambda s, m=model: s["spec"]["predictor"]["model"].update(m))
        play.plane.cluster.settle()
        assert play.plane.cluster.shares(NAME) == {uri(str(version)): 100}
    await play.stage.tick(8.0)
    assert play.plane.cluster.shares(NAME) == {uri("3"): 100}


@kinds()
async def test_a_candidate_taken_out_by_hand_ends_the_rollout(play: Play) -> None:
    stage = play.stage
    await stage.with_champion()
    id = stage.start("4", shadow=False)
    await stage.until(lambda: bool(stage.rollout(id).windows), step=0.5)
    service = f"{NAME}-canary" if isinstance(play.plane, OwnRoute) else NAME

    def change(found: dict[str, Any]) -> None:
        entries = found["spec"].get("canary")
        predictor = entries[0]["predictor"] if entries else found["spec"]["predictor"]
        predictor["model"]["storageUri"] = uri("8")

    play.plane.edit(ISVC, service, change)
    done = await stage.until_ended(id, limit=400)
    await stage.tick(3.0)
    assert done.state == "aborted"
    assert play.plane.cluster.shares(NAME) == {uri("3"): 100}


async def died(play: Play, *, after: int | None) -> bool:
    """One tick; with `after`, the controller dies while its request of that number is under way.

    The thread that makes the request lives on, as a packet on its way does.
    """
    loop, left = asyncio.get_running_loop(), after
    ticking = asyncio.create_task(play.stage.controller.tick())

    def count() -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left == 0:
                loop.call_soon_threadsafe(ticking.cancel)

    play.plane.cluster.api.on_request = count
    await asyncio.gather(ticking, return_exceptions=True)
    return ticking.cancelled()


@kinds()
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
@pytest.mark.parametrize("seed", SEEDS)
async def test_deaths_and_troubles_on_the_way_change_nothing(
    play: Play, story: Story, seed: int
) -> None:
    chance = random.Random(f"{story.name} {seed}")
    stage, cluster = play.stage, play.plane.cluster
    stage.traffic.accuracy["4"] = story.accuracy
    await stage.with_champion()
    cluster.lag = 1
    id, deaths = None, 0
    for _ in range(1500):
        if chance.random() < 0.1:
            kind = chance.choice(("429", "503", "lost", "cut"))
            resource = chance.choice((ISVC, ROUTE, "configmaps"))
            cluster.api.faults.append(Fault(chance.choice(("GET", "PUT")), resource, kind))
        if await died(play, after=chance.randint(1, 12) if chance.random() < 0.7 else None):
            deaths += 1
            stage.die()
            play.world.restart()
        stage.clock.advance(1.0)
        if id is None:
            try:
                id = stage.start("4", shadow=story.shadow)
            except RolloutRefused:
                continue
        found = stage.rollout(id)
        if not found.under_way:
            break
        if found.phase == story.aborted_in:
            stage.command(id, "abort")
    cluster.api.faults.clear()
    await stage.tick(8.0)
    assert id is not None
    assert stage.rollout(id).state == story.outcome, (stage.rollout(id).why, stage.controller.note)
    assert deaths > 0
    assert cluster.shares(NAME) == {uri(story.champion): 100}
    assert all(shares in DECIDED for shares in play.seen), play.seen
