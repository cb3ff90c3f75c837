"""Two controllers on one database never both act, and nobody watches for ever over nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from coalmine.clock import ManualClock
from coalmine.rollout import LeaseLost, RolloutMoved
from coalmine.rollout._controller import DEAD_MAN
from coalmine.rollout._lease import STILL, TTL, Lease
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
    assert second.token > first.token
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
    assert stores[1].take_lease(owner, instead_of=None) == 1
    assert mine.acquire() is None

    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()

    clock.advance(3.0)
    assert mine.acquire() == 3.0


@pytest.mark.parametrize("jump", [-7200.0, 7200.0, TTL, -TTL])
def test_a_clock_that_jumps_takes_the_lease_from_nobody_who_lives(
    stores: tuple[Store, Store], clock: ManualClock, jump: float
) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    first.acquire()
    second.acquire()
    clock.jump(jump)
    for _ in range(40):
        clock.advance(1.0)
        assert second.acquire() is None
        assert first.acquire() == 0.0


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_jumps_locks_nobody_out(
    stores: tuple[Store, Store], clock: ManualClock, jump: float
) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    first.acquire()
    clock.jump(jump)
    assert second.acquire() is None
    clock.advance(TTL)
    silent = second.acquire()
    assert silent is not None
    assert silent >= TTL
    with pytest.raises(LeaseLost):
        first.assure()


def test_every_owner_has_a_larger_token_also_after_a_release(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    tokens = []
    for turn in range(6):
        lease = Lease(stores[turn % 2], clock=clock)
        assert lease.acquire() is not None
        tokens.append(lease.token)
        lease.release()
    assert tokens == sorted(set(tokens))


def test_who_slept_for_longer_than_its_lease_lives_is_a_new_owner(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    lease = Lease(stores[0], clock=clock)
    lease.acquire()
    before = lease.token
    clock.advance(TTL + 90.0)
    assert lease.acquire() == TTL + 90.0, "nobody watched, although nobody took over"
    assert lease.token > before


def test_the_time_that_nobody_watched_outlives_an_owner_that_dies_at_once(
    stores: tuple[Store, Store], clock: ManualClock
) -> None:
    first, second = (Lease(store, clock=clock) for store in stores)
    first.acquire()
    second.acquire()
    clock.advance(100.0)
    assert second.acquire() == 100.0
    third = Lease(stores[0], clock=clock)  # The second died before it did anything.
    assert third.acquire() is None
    clock.advance(STILL)
    assert third.acquire() == 100.0 + STILL


def test_a_database_of_before_the_tokens_is_taken_over(tmp_path: Path, clock: ManualClock) -> None:
    before = sqlite3.connect(tmp_path / "rollout.db")
    before.execute("CREATE TABLE lease (id INTEGER PRIMARY KEY, owner TEXT, beat REAL NOT NULL)")
    before.execute("INSERT INTO lease VALUES (1, 'elsewhere:1:0.0:x', 999000.0)")
    before.commit()
    before.close()
    lease = Lease(Store(tmp_path / "rollout.db", clock=clock), clock=clock)
    assert lease.acquire() is None
    clock.advance(STILL)
    assert lease.acquire() == 1000.0 + STILL
    assert lease.token == 1


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
    await stage.tick()
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
