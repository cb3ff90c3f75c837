"""Two controllers on one database never both act, and nobody watches for ever over nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from coalmine.clock import ManualClock
from coalmine.rollout import LeaseLost, RolloutMoved
from coalmine.rollout._controller import DEAD_MAN
from coalmine.rollout._lease import TTL, Lease
from coalmine.rollout._store import Store

from .conftest import Stage


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start=1_000_000.0)


@pytest.fixture
def stores(tmp_path: Path, clock: ManualClock) -> tuple[Store, Store]:
    first, second = (Store(tmp_path / "rollout.db", clock=clock) for _ in range(2))
    return first, second


def test_only_one_holds_it_and_the_other_takes_over_when_it_falls_silent(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    assert first.acquire() == 0.0
    assert second.acquire() is None
    clock.advance(TTL - 1)
    assert second.acquire() is None
    clock.advance(1)
    assert second.acquire() == TTL
    with pytest.raises(LeaseLost):
        first.assure()
    assert first.acquire() is None


def test_a_beat_keeps_it(stores: tuple[Store, Store], clock: ManualClock) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    for _ in range(10):
        assert first.acquire() == 0.0
        assert second.acquire() is None
        clock.advance(TTL / 2)


def test_a_release_lets_the_next_one_in_at_once(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    first.acquire()
    first.release()
    assert second.acquire() == 0.0


def test_the_lease_of_a_process_that_is_gone_is_void_at_once(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(process.pid).create_time()
    mine = Lease(stores[0], clock=clock)
    host = mine.owner.split(":")[0]
    owner = f"{host}:{process.pid}:{created}:0"
    assert stores[1].take_lease(owner, instead_of=None)
    assert mine.acquire() is None

    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()

    clock.advance(3.0)
    assert mine.acquire() == 3.0


def test_a_clock_set_back_does_not_lock_everybody_out(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    first.acquire()
    clock.jump(-7200.0)
    assert second.acquire() == 0.0
    with pytest.raises(LeaseLost):
        first.assure()


async def test_two_controllers_that_tick_in_turn_do_the_work_of_one(stage: Stage) -> None:
    _, other = stage.new_controller()
    id = stage.start("3")
    for _ in range(10):
        await stage.tick()
        await other.tick()
        stage.clock.advance(1.0)
    assert stage.rollout(id).state == "promoted"
    assert other.note == "another controller acts"
    assert [dict(plan.weights) for plan in stage.world.history] == [{"stable": 100}]


async def test_a_controller_that_was_asleep_for_too_long_does_not_act_when_it_wakes(
    stage: Stage,
) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    asleep = stage.controller
    stage.restart()
    stage.clock.advance(TTL)
    await stage.tick(2.0)
    stage.command(id, "abort")
    before = len(stage.world.history)

    await asleep.tick()  # It still believes in its lease until it asks, which is before it acts.

    assert len(stage.world.history) == before
    assert asleep.note == "another controller acts"
    assert not asleep.acting
    assert (await stage.until_ended(id, limit=20)).state == "aborted"


async def test_a_transition_decided_on_what_is_past_is_not_written(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    seen = stage.rollout(id)
    stage.command(id, "pause")
    with pytest.raises(RolloutMoved):
        stage.store.save(seen.judged_as("non_inferior"), None)


async def test_a_rollout_that_nobody_watched_goes_back_to_stable(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")

    stage.restart()
    stage.clock.advance(DEAD_MAN)
    done = await stage.until_ended(id, limit=10)

    assert done.state == "aborted"
    assert done.why is not None
    assert done.why.startswith("no controller watched it for 6")
    assert dict(stage.world.history[-1].weights) == {"stable": 100}


async def test_a_short_absence_costs_nothing(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).state == "stepping")
    stage.restart()
    stage.clock.advance(TTL)
    assert (await stage.until_ended(id)).state == "promoted"


async def test_a_promotion_that_was_decided_is_finished_however_late(stage: Stage) -> None:
    await stage.with_champion()
    id = stage.start("4")
    await stage.until(lambda: stage.rollout(id).phase == "replace")
    stage.restart()
    stage.clock.advance(10 * DEAD_MAN)
    assert (await stage.until_ended(id)).state == "promoted"
