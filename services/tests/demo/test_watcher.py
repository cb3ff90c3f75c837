"""The watcher against a small real control side that changes, breaks off and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Response

from coalmine.arms import Arm
from coalmine.demo._history import History
from coalmine.demo._watcher import Watcher
from coalmine.gateway import GatewayUnavailable, RoutePlan

from .conftest import free_port
from .stories import START, incident


class Control:
    """Answers what it is told to, under the services' prefixes."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answers: dict[str, Any] = {
            "/drift/v1/incidents": {"incidents": [], "evaluated_to": 0.0},
            "/drift/v1/drift": {"windows": []},
            "/quality/v1/quality": {"windows": []},
            "/retrainer/v1/runs": {"runs": []},
            "/retrainer/v1/triggers": {"triggers": []},
            "/rollout/v1/rollouts": {"rollouts": []},
            "/rollout/v1/weights": {"decision_id": "r1.settle", "weights": {"stable": 100}},
        }

    async def start(self) -> None:
        app = FastAPI()

        @app.get("/{path:path}")
        async def answer(path: str) -> Any:
            found = self.answers.get(f"/{path}")
            return Response(status_code=503) if found is None else found

        config = uvicorn.Config(app, port=self.port, log_level="critical")
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        await self._task


class Gateway:
    """Shows the plan it is given, or nothing."""

    def __init__(self) -> None:
        self.plan: RoutePlan | None = RoutePlan("r1.settle", {Arm.STABLE: 100})

    async def applied(self) -> RoutePlan | None:
        if self.plan is None:
            raise GatewayUnavailable("away")
        return self.plan


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    running = Control()
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@pytest.fixture
async def watcher(control: Control) -> AsyncIterator[Watcher]:
    services = ("drift", "performance", "quality", "retrainer", "rollout", "collector")
    endpoints = {name: f"http://127.0.0.1:{control.port}/{name}" for name in services}
    watching = Watcher(endpoints, gateway=Gateway(), history=History())
    try:
        yield watching
    finally:
        await watching.aclose()


def texts(watcher: Watcher) -> list[str]:
    return [event.text for event in watcher._history.events]


def ledger_entry(number: int, kind: str, state: str, stage: str, **body: Any) -> dict[str, Any]:
    return {"number": number, "time": START + number, "kind": kind, "actor": "controller",
            "state": state, "stage": stage, "decision_id": "d", **body}  # fmt: skip


async def test_incidents_are_told_once_and_their_end_too(
    control: Control, watcher: Watcher
) -> None:
    opened = incident("drift", "resistance")
    control.answers["/drift/v1/incidents"] = {"incidents": [opened.model_dump(mode="json")]}
    await watcher.look()
    await watcher.look()
    closed = opened.model_copy(update={"closed_at": START + 200})
    control.answers["/drift/v1/incidents"] = {"incidents": [closed.model_dump(mode="json")]}
    await watcher.look()
    assert [text for text in texts(watcher) if "CoalmineDrift" in text] == [
        "CoalmineDrift: drift of resistance",
        "CoalmineDrift is over",
    ]
    assert watcher.incidents[opened.id].closed_at == START + 200


async def test_what_was_missed_of_a_rollout_is_read_in_its_ledger(
    control: Control, watcher: Watcher
) -> None:
    rollout = {"id": "r2", "version": "2", "state": "shadowing", "verdict": None,
               "started": START, "ended": None}  # fmt: skip
    control.answers["/rollout/v1/rollouts"] = {"rollouts": [rollout]}
    control.answers["/rollout/v1/rollouts/r2"] = {
        **rollout, "ledger": [ledger_entry(1, "started", "pending", "shadow")],
    }  # fmt: skip
    await watcher.look()
    await control.stop()
    await watcher.look()
    assert watcher.rollouts["r2"].state == "shadowing"
    done = {**rollout, "state": "promoted", "verdict": "non_inferior", "ended": START + 9}
    control.answers["/rollout/v1/rollouts"] = {"rollouts": [done]}
    control.answers["/rollout/v1/rollouts/r2"] = {
        **done,
        "ledger": [
            ledger_entry(1, "started", "pending", "shadow"),
            ledger_entry(2, "opened", "shadowing", "shadow"),
            ledger_entry(5, "passed", "stepping", "step 1 of 2: 20 %", verdict={"kind": "ok"}),
            ledger_entry(9, "ended", "promoted", "done"),
        ],
    }
    await control.start()
    await watcher.look()
    fact = watcher.rollouts["r2"]
    assert fact.states == ("pending", "shadowing", "stepping", "promoted")
    assert [(s.name, s.seconds) for s in fact.detail["spans"]][:3] == [
        ("pending", 1.0), ("shadowing", 3.0), ("stepping", 4.0),
    ]  # fmt: skip
    told = [event for event in watcher._history.events if event.kind == "rollout"]
    assert [event.text for event in told] == [
        "version 2: started, shadow",
        "version 2: opened, shadow",
        "version 2: passed, step 1 of 2: 20 %",
        "version 2: promoted",
    ]
    assert told[2].evidence["verdict"] == {"kind": "ok"}


async def test_runs_and_triggers_with_their_fates(control: Control, watcher: Watcher) -> None:
    run = {"id": "a1", "kind": "retrain", "reason": "CoalmineAccuracyLoss", "created": START,
           "started": None, "ended": None, "outcome": None, "version": None,
           "state": "waiting"}  # fmt: skip
    trigger = {"identity": "x", "source": "alert", "name": "CoalmineAccuracyLoss",
               "fate": "accepted", "reason": "", "first_at": START, "count": 1}  # fmt: skip
    control.answers["/retrainer/v1/runs"] = {"runs": [run]}
    control.answers["/retrainer/v1/triggers"] = {"triggers": [trigger]}
    await watcher.look()
    cancelled = {**run, "state": "cancelled", "ended": START + 3, "error": "data fault"}
    control.answers["/retrainer/v1/runs"] = {"runs": [cancelled]}
    again = {**trigger, "fate": "suppressed", "reason": "data fault", "count": 2}
    control.answers["/retrainer/v1/triggers"] = {"triggers": [again]}
    await watcher.look()
    assert watcher.runs["a1"].cancelled
    assert {t.fate for t in watcher.triggers} == {"suppressed"}
    assert texts(watcher)[-2:] == [
        "CoalmineAccuracyLoss: suppressed (data fault)",
        "run a1 is cancelled",
    ]


async def test_scores_are_taken_once_per_window_and_faults_beside_them(
    control: Control, watcher: Watcher
) -> None:
    def window(number: int) -> dict[str, Any]:
        return {"version": "1", "window": number, "start": START, "end": START + number,
                "features": {"soc": {"score": 0.1 * number, "threshold": 0.2}}}  # fmt: skip

    fault = {"feature": "pack_voltage_residual", "check": "sensor_check", "score": -0.6,
             "threshold": 0.1}  # fmt: skip
    control.answers["/drift/v1/drift"] = {"windows": [window(1), window(2)]}
    control.answers["/quality/v1/quality"] = {
        "windows": [{"version": "1", "window": 1, "end": START, "faults": [fault]}]
    }
    await watcher.look()
    control.answers["/drift/v1/drift"] = {"windows": [window(1), window(2), window(3)]}
    await watcher.look_back()
    scores = watcher._history.scores
    assert [(s.feature, s.score) for s in scores if s.feature == "soc"] == [
        ("soc", 0.1), ("soc", 0.2), ("soc", pytest.approx(0.3)),
    ]  # fmt: skip
    assert [s.feature for s in scores if s.feature != "soc"] == [
        "pack_voltage_residual (sensor check)"
    ]
    assert watcher.last_scores["soc"].score == pytest.approx(0.3)


async def test_weights_are_compared_only_where_both_can_be_read(
    control: Control, watcher: Watcher
) -> None:
    gateway = watcher._gateway
    assert isinstance(gateway, Gateway)
    await watcher.look()
    gateway.plan = None
    await watcher.look()
    gateway.plan = RoutePlan("r2.step-1", {Arm.STABLE: 80, Arm.CANARY: 20})
    await watcher.look()
    samples = watcher._history.weights
    assert [sample.agree for sample in samples] == [True, False]
    assert watcher.weights == {"stable": 100}


async def test_answers_it_does_not_understand_change_nothing(
    control: Control, watcher: Watcher
) -> None:
    for path in control.answers:
        control.answers[path] = {"unexpected": [1, "two"]}
    control.answers["/drift/v1/incidents"] = {"incidents": [{"id": 3}, "x"]}
    control.answers["/rollout/v1/rollouts"] = {"rollouts": [{"state": "?"}, None]}
    await watcher.look()
    assert not watcher.incidents
    assert not watcher.rollouts
    assert texts(watcher) == []
