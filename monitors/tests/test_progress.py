"""How far the monitors have read, as the log is told: what retention must not delete is known."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from coalmine.clock import ManualClock
from coalmine.incidents import ALERT_NAMES
from coalmine.records import LogUnavailableError, monitor_consumer
from coalmine_monitors import create_drift_app, create_performance_app, create_quality_app
from coalmine_monitors._cursors import Progress
from coalmine_monitors._state import Saved, StateStore

APPS = {
    "drift": create_drift_app,
    "data_quality": create_quality_app,
    "accuracy": create_performance_app,
}


@pytest.mark.parametrize("kind", sorted(APPS))
async def test_the_log_knows_how_far_a_monitor_is(
    world: Any, make_service: Any, run_app: Any, kind: str
) -> None:
    assert set(APPS) == set(ALERT_NAMES)
    service = make_service()
    name = monitor_consumer(service.name, kind)
    world.deploy()
    world.send(100)
    assert world.log.committed(name) == {0: 0}
    create = APPS[kind]
    app = create(service, log=world.log, state=world.root / "m.db", models=world.models)
    async with run_app(app) as client:
        await client.settled()
    assert world.log.committed(name) == {0: world.log.end_offset()}


def test_it_is_told_now_and_then_and_a_busy_log_is_told_later() -> None:
    told: list[dict[int, int]] = []
    busy = [False]

    class Log:
        def commit(self, name: str, offsets: dict[int, int]) -> None:
            assert name == "m/drift"
            if busy[0]:
                raise LogUnavailableError("locked")
            told.append(dict(offsets))

    clock = ManualClock(start=0.0)
    progress = Progress(Log(), model="m", kind="drift", clock=clock)  # type: ignore[arg-type]
    for offset in range(3):
        progress.note({0: offset})
    assert told == [{0: 0}]
    clock.advance(31.0)
    busy[0] = True
    progress.note({0: 3})
    busy[0] = False
    progress.note({0: 4})
    clock.advance(31.0)
    progress.note({0: 4})
    assert told == [{0: 0}, {0: 4}]


@pytest.mark.parametrize("kind", sorted(APPS))
async def test_a_monitor_whose_steps_fail_says_so_and_how_far_behind_it_is(
    world: Any, make_service: Any, run_app: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.deploy()
    full = [True]
    step = StateStore.step

    def failing(self: StateStore, before: Saved) -> Any:
        if full[0]:
            raise sqlite3.OperationalError("database or disk is full")
        return step(self, before)

    monkeypatch.setattr(StateStore, "step", failing)
    monkeypatch.setattr("coalmine_monitors._worker._LAST_RETRY", 0.2)
    app = APPS[kind](make_service(), log=world.log, state=world.root / "m.db", models=world.models)
    async with run_app(app) as client:

        async def shown(name: str) -> float:
            lines = (await client.get("/metrics")).text.splitlines()
            found = [line for line in lines if line.startswith(f"coalmine_{name}{{")]
            return float(found[0].rsplit(" ", 1)[1]) if found else -1.0

        async def until(name: str, condition: Callable[[float], bool]) -> None:
            async with asyncio.timeout(60):
                while not condition(await shown(name)):
                    await asyncio.sleep(0.05)

        await until("monitor_lag_batches", lambda lag: lag == 0)  # it was well, and idle
        world.send(100)
        await until("monitor_lag_batches", lambda lag: lag == world.log.end_offset())
        assert await shown("monitor_errors_total") > 0
        assert await shown("last_evaluation_timestamp_seconds") == 0
        full[0] = False
        await until("monitor_lag_batches", lambda lag: lag == 0)
        assert await shown("monitor_errors_total") > 0
