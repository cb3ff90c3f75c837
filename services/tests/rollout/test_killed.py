"""A controller dies at any instruction: the next carries on, and nothing undecided is routed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coalmine.clock import ManualClock
from coalmine.rollout import RolloutRefused
from coalmine.rollout._state import Rollout, Serving
from coalmine.rollout._store import Entry, Held, Store

from .conftest import Stage
from .fakes import FileWorld, Traffic
from .stories import STORIES, Story, check_end


class Killed(BaseException):
    """Not an `Exception`: nothing in the controller handles it, as nothing handles SIGKILL."""


class Mine:
    """Kills at the n-th point that is reached, of all persistence and effects."""

    def __init__(self) -> None:
        self.armed_at: int | None = None
        self.reached: list[str] = []

    def __call__(self, point: str) -> None:
        self.reached.append(point)
        if self.armed_at == len(self.reached) - 1:
            raise Killed(point)


def mined_store(mine: Mine) -> type[Store]:
    class MinedStore(Store):
        def take_lease(self, owner: str, *, instead_of: Held | None) -> int | None:
            mine("taking the lease")
            taken = super().take_lease(owner, instead_of=instead_of)
            mine("took the lease")
            return taken

        def create(self, rollout: Rollout, entry: Entry) -> None:
            mine("creating")
            super().create(rollout, entry)
            mine("created")

        def save(self, rollout: Rollout, entry: Entry | None, **more: Any) -> Rollout:
            mine(f"saving {rollout.phase}")
            saved = super().save(rollout, entry, **more)
            mine(f"saved {rollout.phase}")
            return saved

        def adopt(self, serving: Serving, entry: Entry, *, token: int) -> None:
            mine("adopting")
            super().adopt(serving, entry, token=token)
            mine("adopted")

    return MinedStore


async def play(root: Path, story: Story, mine: Mine) -> Stage:
    """The story from an empty directory; a controller that is killed is replaced by another."""
    clock = ManualClock(start=1_000_000.0)
    world = FileWorld(root / "world", clock, start_up=1.0, reached=mine)
    for version in ("3", "4"):
        world.add_version(version)
    traffic = Traffic(world, clock, accuracy={"3": 0.6, "4": story.accuracy})
    stage = Stage(root, clock, world, traffic, policy=story.policy, make_store=mined_store(mine))
    for version, shadow in (("3", True), ("4", story.shadow)):
        for _ in range(400):
            try:
                if not any(r.candidate.version == version for r in stage.store.rollouts()):
                    stage.start(version, shadow=shadow)
                await stage.controller.tick()
                newest = stage.store.rollouts()[0]
                if newest.candidate.version == version:
                    if not newest.under_way:
                        break
                    if newest.phase == story.aborted_in:
                        stage.command(newest.id, "abort")
            except Killed:
                stage.die()
            except RolloutRefused:
                await stage.controller.tick()
            clock.advance(2.0)
    mine.armed_at = None
    await stage.tick(3.0)
    return stage


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(
            story, id=story.name, marks=[pytest.mark.slow] if story.name != "broken" else []
        )
        for story in STORIES
    ],
)
async def test_killed_before_and_after_every_write_and_every_effect(
    tmp_path: Path, story: Story
) -> None:
    whole = Mine()
    stage = await play(tmp_path / "whole", story, whole)
    check_end(story, stage.world, stage.store)
    stage.close()
    assert len(whole.reached) > 30

    # One story is enough for the deaths on the way to the first champion.
    candidates = 0 if story.name == "broken" else whole.reached.index("creating", 1)
    for n, point in enumerate(whole.reached[candidates:], start=candidates):
        mine = Mine()
        mine.armed_at = n
        stage = await play(tmp_path / str(n), story, mine)
        assert mine.reached[n] == point
        try:
            check_end(story, stage.world, stage.store)
        except AssertionError as error:
            raise AssertionError(f"killed at {n}, {point}") from error
        stage.close()


@pytest.mark.slow
def test_killed_by_the_kernel_at_random_instants(tmp_path: Path) -> None:
    story = STORIES[0]
    world = FileWorld(tmp_path / "world", ManualClock())
    for version in ("3", "4"):
        world.add_version(version)
    script = Path(__file__).with_name("roll_until_killed.py")
    instants = random.Random(7)
    kills = 0
    for _ in range(40):
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, str(script), str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(script.parent.parent)},
            )
        assert process.stdout is not None
        process.stdout.readline()  # It has come up.
        try:
            process.wait(instants.uniform(0.0, 1.0) if kills < 15 else 40.0)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        finally:
            process.stdout.close()
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert kills > 3
    store = Store(tmp_path / "rollout.db", clock=ManualClock(start=time.monotonic()))
    check_end(story, world, store)
    store.close()
