"""How far the monitors have read, as the log is told: what retention must not delete is known."""

from __future__ import annotations

from typing import Any

import pytest

from coalmine.clock import ManualClock
from coalmine.incidents import ALERT_NAMES
from coalmine.records import LogUnavailableError, monitor_consumer
from coalmine_monitors import create_drift_app, create_performance_app, create_quality_app
from coalmine_monitors._cursors import Progress

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
