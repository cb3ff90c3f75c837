"""A retrainer that dies in the middle: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalmine.retraining._store import Store
from coalmine.retraining._types import Run

from .conftest import (
    EPOCH,
    ONSET,
    World,
    alert,
    fill_log,
    finished,
    make_service,
    processes_of,
    retrainer,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


async def test_a_retrainer_that_restarts_carries_on_with_the_run(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "linger")
        body = await until(
            client, "/v1/runs", lambda b: b["runs"] and b["runs"][0]["steps"].get("work", 0) is None
        )
        first = body["runs"][0]
    assert processes_of(first["id"]) == []
    async with retrainer(make_service(), state=state, world=world) as client:
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["id"], run["outcome"]) == (first["id"], "promoted-to-rollout")
    assert (run["attempts"], run["deaths"]) == (2, 0)
    assert run["until"] == first["until"]  # the same rows again
    assert len(world.offers) == 1
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]


async def test_a_run_that_had_ended_when_the_retrainer_died_is_not_run_again(
    state: Path, world: World
) -> None:
    store = Store(state / "retraining.db")
    run = Run(
        id="retrain-1",
        kind="retrain",
        reason="fail",
        actor="test",
        created=EPOCH,
        state="running",
        model_version="1",
        started=EPOCH,
        attempts=1,
    )
    store.note_triggers([], run=run)
    store.close()
    attempt = state / "runs" / "retrain-1" / "attempt-1"
    attempt.mkdir(parents=True)
    result = {"outcome": "promote", "error": None, "version": "2", "reasons": ["good"]}
    (attempt / "result.json").write_text(json.dumps(result), encoding="utf-8")
    world.rollouts.append({"id": "ro-5", "version": "2", "state": "promoted"})  # offered already
    async with retrainer(make_service(), state=state, world=world) as client:
        found = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (found["outcome"], found["rollout"]) == ("promoted-to-rollout", "ro-5")
    assert (found["attempts"], found["reasons"], world.offers) == (1, ["good"], [])


async def test_a_run_that_kills_the_retrainer_again_and_again_is_given_up_and_told(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    store = Store(state / "retraining.db")
    run = Run(
        id="retrain-1",
        kind="retrain",
        reason="too large",
        actor="test",
        created=EPOCH,
        state="running",
        model_version="1",
        started=EPOCH,
        attempts=11,
        deaths=1,
    )
    store.note_triggers([], run=run)
    store.close()
    async with retrainer(make_service(), state=state, world=world) as client:
        found = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (found["outcome"], found["attempts"]) == ("failed", 11)
    assert found["error"] == "given up: the retrainer ended 10 times while it ran"
    assert [notice["outcome"] for notice in notices()] == ["failed"]


@pytest.mark.slow
async def test_a_killed_retrainer_takes_its_run_along(
    state: Path, world: World, tmp_path: Path
) -> None:
    """As the supervisor's kill -9 of the control process does, in a process of its own."""
    fill_log(state, since=ONSET)
    service = make_service()
    script = tmp_path / "control.py"
    script.write_text(_CONTROL, encoding="utf-8")
    (tmp_path / "service.json").write_text(service.model_dump_json(), encoding="utf-8")
    control = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path / "service.json"), str(state), world.url
    )
    try:
        run_id, steps = await _run_on_disk(state)
    finally:
        os.kill(control.pid, signal.SIGKILL)
        await control.wait()
    assert steps, "the run had begun to work"
    for _ in range(50):
        if not (left := processes_of(run_id)):
            break
        await asyncio.sleep(0.1)
    assert left == [], "a step that outlives its run would act for it"
    async with retrainer(service, state=state, world=world) as client:
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["id"], run["outcome"]) == (run_id, "promoted-to-rollout")
    assert len(world.offers) == 1


_CONTROL = """
import asyncio, pathlib, sys
from coalmine.retraining import create_app
from coalmine.retraining._types import Ask
from coalmine.spec import ServiceSpec

async def main():
    service = ServiceSpec.model_validate_json(pathlib.Path(sys.argv[1]).read_text())
    state = pathlib.Path(sys.argv[2])
    app = create_app(service, state=state, log_uri=f"sqlite:///{state}/records.db",
        quality_url=sys.argv[3] + "/quality", rollout_url=sys.argv[3] + "/rollout")
    async with app.router.lifespan_context(app):
        ask = Ask("cli", "linger", "a test", reason="linger", actor="test")
        await app.state.parts.intake.submit([ask])
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def _run_on_disk(state: Path) -> tuple[str, list[str]]:
    for _ in range(400):
        for events in (state / "runs").glob("*/attempt-1/events.jsonl"):
            steps = [json.loads(line)["name"] for line in events.read_text().splitlines()]
            return events.parent.parent.name, steps
        await asyncio.sleep(0.1)
    raise AssertionError("the run did not start")
