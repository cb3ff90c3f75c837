"""Days of alerts, on a clock: what retrains, and what is spared. The test plays the pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coalmine.clock import ManualClock
from coalmine.retraining import MlflowRegistry
from coalmine.retraining._intake import Intake
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._peers import Peers
from coalmine.retraining._routine import Routine
from coalmine.retraining._store import Store
from coalmine.retraining._types import Ask

from .conftest import EPOCH, World, make_service

HOUR, DAY = 3600.0, 86_400.0


class Days:
    """A retrainer's intake and routine on a clock, whose runs end as the test says."""

    def __init__(self, clock: ManualClock, store: Store, intake: Intake, routine: Routine) -> None:
        self.clock = clock
        self.store = store
        self.intake = intake
        self.routine = routine

    async def alert(self) -> str:
        """The alert is repeated; its fate, and a minute later the run has waited and started."""
        now = self.clock.time()
        ask = Ask(
            "alert",
            "CoalmineAccuracyLoss",
            "f1@0",
            reason="lost",
            actor="alertmanager",
            model_version="1",
            starts_at=EPOCH,
            onset=EPOCH,
        )
        answer = await self.intake.submit([ask])
        if answer.run is not None:
            self.store.change_run(answer.run.id, state="running", started=now)
        (fate,) = answer.fates
        return fate

    async def end(self, outcome: str, **changes: Any) -> None:
        """The active run has ended, ten minutes after it started."""
        run = self.store.active_run()
        assert run is not None
        self.clock.advance(600.0)
        self.store.change_run(
            run.id, state="finished", outcome=outcome, ended=self.clock.time(), **changes
        )
        await self.routine.watch_breaker()


@pytest.fixture
async def days(state: Path, registry: MlflowRegistry, world: World) -> AsyncIterator[Days]:
    service = make_service(daily_budget=4, schedule="0 3 * * *")
    assert service.retraining is not None
    clock = ManualClock(start=EPOCH)
    store = Store(state / "retraining.db")
    metrics = Metrics("demo")
    peers = Peers(
        quality_url=f"{world.url}/quality", rollout_url=f"{world.url}/rollout", model_name="demo"
    )
    async with peers:
        common: dict[str, Any] = {"store": store, "registry": registry, "peers": peers}
        common |= {"metrics": metrics, "clock": clock}
        intake = Intake(service, features=lambda _: None, **common)
        routine = Routine(service, policy=service.retraining, state=state, intake=intake, **common)
        yield Days(clock, store, intake, routine)
    store.close()


async def test_a_rejected_candidate_is_not_retrained_in_a_loop(days: Days) -> None:
    """An alert that fires for three weeks, every four hours, about what cannot be learned."""
    starts = []
    while days.clock.time() < EPOCH + 21 * DAY:
        if await days.alert() == "accepted":
            starts.append((days.clock.time() - EPOCH) / HOUR)
            await days.end("rejected")
        days.clock.advance(4 * HOUR)
    # 6 h, then twice as long each time, to the cap of a week; each from the end of the last.
    waits = [later - earlier for earlier, later in zip(starts, starts[1:], strict=False)]
    for wait, wanted in zip(waits, [6, 12, 24, 48, 96, 168], strict=True):
        assert wanted <= wait <= wanted + 5
    assert (await days.intake.standing()).rejections == len(starts)


async def test_what_its_rollout_rolls_back_is_a_rejection_too(days: Days, world: World) -> None:
    assert await days.alert() == "accepted"
    world.rollouts.append({"id": "ro-1", "version": "2", "state": "stepping"})
    await days.end("promoted-to-rollout", rollout="ro-1")
    days.clock.advance(2 * HOUR)
    assert await days.alert() == "suppressed"  # it is under way
    world.rollouts[0]["state"] = "rolled_back"
    assert await days.alert() == "suppressed"
    (latest, *_) = days.store.triggers()
    assert latest.reason == "back-off of 21600 s after 1 rejected candidate in a row"
    days.clock.advance(4 * HOUR)
    assert await days.alert() == "accepted"


async def test_a_broken_pipeline_calls_a_person_once(
    days: Days, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    runs = 0
    for _ in range(3 * 24):
        if await days.alert() == "accepted":
            runs += 1
            await days.end("failed", error="no disk")
        days.clock.advance(HOUR)
    assert runs == 3
    assert [(n["outcome"], n["reason"]) for n in notices()] == [("STOPPED", "3 failures in a row")]
    assert "coalmine retrain reset. no disk" in notices()[0]["message"]
    await days.routine.reset(reason="a bigger disk", actor="ann")
    days.clock.advance(1.0)
    assert await days.alert() == "accepted"
    await days.end("failed", error="no disk")
    assert len(notices()) == 1  # the first of a new row
    # A person tries again by hand, and it comes to a decision: the row is over.
    days.clock.advance(DAY)
    await days.intake.submit([Ask("cli", "try", "cli@1", reason="try", actor="ann")])
    await days.end("rejected")
    assert (await days.intake.standing()).failures == 0


async def test_the_schedule_is_one_of_the_triggers(days: Days) -> None:
    assert not await days.routine.serve_schedule()  # its first look: nothing is due yet
    served = []
    for _ in range(4 * 24):
        days.clock.advance(HOUR)
        if await days.routine.serve_schedule():
            served.append(datetime.fromtimestamp(days.clock.time(), UTC).hour)
            if days.store.active_run() is not None:
                await days.end("promoted-to-rollout", verdict="promoted")
    assert served == [3, 3, 3, 3]
    fates = [trigger.fate for trigger in days.store.triggers(source="schedule")]
    assert fates == ["accepted"] * 4 or "suppressed" in fates
    days.clock.advance(10 * DAY)  # off for a while
    assert await days.routine.serve_schedule()
    assert not await days.routine.serve_schedule()
