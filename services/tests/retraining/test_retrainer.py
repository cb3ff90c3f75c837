"""The retrainer as its users meet it: webhooks in, runs of a real pipeline, rollouts out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from coalmine.retraining import MlflowRegistry
from coalmine.retraining._store import Run, Store

from .conftest import World, fill_log, make_service, retrainer, until, webhook

STARTS_AT = "2026-11-21T10:00:00Z"
EPOCH = 1795255200.0  # the same
ONSET = EPOCH - 30

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def finished(body: dict[str, Any]) -> bool:
    return bool(body["runs"]) and body["runs"][0]["state"] == "finished"


async def alert(client: Any, summary: str, **labels: str) -> dict[str, int]:
    answer = await client.post(
        "/v1/alerts", json=webhook(summary, starts_at=STARTS_AT, onset=ONSET, **labels)
    )
    assert answer.status_code == 200, answer.text
    fates: dict[str, int] = answer.json()["triggers"]
    return fates


async def test_an_alert_becomes_a_rollout_of_a_new_version(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        assert await alert(client, "promote") == {"accepted": 1}
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        metrics = (await client.get("/metrics")).text
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    assert run["outcome"] == "promoted-to-rollout"
    assert run["version"] == "2"
    assert run["since"] == ONSET
    assert run["reasons"] == ["because of CoalmineAccuracyLoss: promote"]
    assert {"work", "register", "notify"} <= set(run["steps"])
    assert world.offers == [
        {
            "version": "2",
            "shadow": True,
            "reason": "CoalmineAccuracyLoss: promote",
            "actor": "retrainer",
        }
    ]
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]
    assert [(t["fate"], t["run"]) for t in triggers] == [("accepted", run["id"])]
    assert 'coalmine_retrain_triggers_total{model_name="demo",outcome="accepted"} 1.0' in metrics
    assert (
        'coalmine_retrain_runs_total{model_name="demo",outcome="promoted-to-rollout"} 1.0'
        in metrics
    )


async def test_a_rejected_candidate_starts_no_rollout_and_is_told(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "reject")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        # It is not retrained in a loop: the cooldown holds.
        assert await alert(client, "reject") == {"suppressed": 1}
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    assert (run["outcome"], run["version"]) == ("rejected", None)
    assert "record" in run["steps"]
    assert "register" not in run["steps"]
    assert world.offers == []
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]
    assert triggers[0]["reason"].startswith("cooldown of 3600 s")


async def test_a_failure_is_told_with_its_cause(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "fail")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "failed"
    assert run["error"] == "ValueError: the data is upside down"
    assert run["attempts"] == 1  # it did not die: the same data would fail again
    assert [notice["outcome"] for notice in notices()] == ["FAILED"]


@pytest.mark.slow
async def test_a_step_that_fails_once_is_tried_again(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    service = make_service(pipeline="small_pipelines:pipeline")
    async with retrainer(service, state=state, world=world) as client:
        await alert(client, "flaky")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "promoted-to-rollout"


async def test_a_hanging_run_is_killed_at_its_limit_and_told(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(time_limit="4s"), state=state, world=world) as client:
        await alert(client, "hang")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        left = _processes_of(run["id"])
    assert (run["outcome"], run["error"]) == ("timeout", "killed at its time limit of 4 s")
    assert [notice["outcome"] for notice in notices()] == ["timeout"]
    assert left == []
    assert world.offers == []


@pytest.mark.slow
async def test_a_run_whose_process_is_killed_starts_again(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "stumble")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["outcome"], run["attempts"], run["deaths"]) == ("promoted-to-rollout", 2, 1)
    assert len(world.offers) == 1
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]


async def test_a_run_that_dies_too_often_has_failed_and_is_told(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "die")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["outcome"], run["error"]) == ("failed", "its process died 2 times")
    assert [notice["outcome"] for notice in notices()] == ["failed"]


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
    assert _processes_of(first["id"]) == []
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

    from .conftest import model_directory

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


async def test_a_storm_of_alerts_starts_one_run(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    body = webhook("linger", starts_at=STARTS_AT, onset=ONSET)
    body["alerts"] = [{**body["alerts"][0], "fingerprint": f"f{n}"} for n in range(2500)]
    async with retrainer(make_service(), state=state, world=world) as client:
        answers = await asyncio.gather(*(client.post("/v1/alerts", json=body) for _ in range(4)))
        runs = (await client.get("/v1/runs")).json()["runs"]
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    fates = [answer.json()["triggers"] for answer in answers]
    assert sum(fate.get("accepted", 0) for fate in fates) == 1
    assert sum(fate.get("merged", 0) for fate in fates) == 9_999
    assert len(runs) == 1
    assert sum(trigger["count"] for trigger in triggers) == 10_000
    assert len(triggers) <= 2_501


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"version": "4"}',
        b'{"version": "3", "alerts": []}',
        b'{"version": "4", "alerts": [{"status": "firing", "labels": {}}]}',
        b'{"version": "4", "alerts": [{"status": "x", "labels": {}, "startsAt": "yesterday"}]}',
    ],
)
async def test_what_is_no_webhook_is_answered_with_400(
    state: Path, world: World, body: bytes
) -> None:
    async with retrainer(make_service(), state=state, world=world) as client:
        answer = await client.post("/v1/alerts", content=body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error"}
        assert (await client.get("/v1/runs")).json() == {"runs": []}


async def test_an_open_data_quality_incident_suppresses(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    world.incidents = [{"model_name": "demo", "summary": "pack_voltage_residual of sensor P"}]
    async with retrainer(make_service(), state=state, world=world) as client:
        assert await alert(client, "promote") == {"suppressed": 1}
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    assert triggers[0]["reason"] == "data quality: pack_voltage_residual of sensor P"


async def test_a_run_waits_for_the_quality_monitor_and_is_suppressed_by_it(
    state: Path, world: World
) -> None:
    fill_log(state, since=ONSET)
    world.evaluated_to = EPOCH - 5  # it has not judged up to the alert yet
    async with retrainer(make_service(), state=state, world=world) as client:
        assert await alert(client, "promote") == {"accepted": 1}
        body = await until(client, "/v1/runs", lambda b: b["runs"] and b["runs"][0]["waiting_for"])
        assert body["runs"][0]["waiting_for"] == (
            "the data-quality monitor to judge up to the alert"
        )
        world.incidents = [{"model_name": "demo", "summary": "a sensor"}]
        await until(client, "/v1/runs", lambda b: b["runs"] == [])
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
        metrics = (await client.get("/metrics")).text
    assert [(t["fate"], t["reason"]) for t in triggers] == [
        ("suppressed", "data quality: a sensor")
    ]
    assert 'triggers_total{model_name="demo",outcome="suppressed"} 1.0' in metrics


async def test_a_run_waits_for_labels_and_then_starts(state: Path, world: World) -> None:
    fill_log(state, since=ONSET, requests=300, labelled=5)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "reject")
        body = await until(client, "/v1/runs", lambda b: b["runs"] and b["runs"][0]["waiting_for"])
        assert body["runs"][0]["waiting_for"] == "60 labels since the onset; 20 so far"
        fill_log(state, since=ONSET, first=300, requests=20, labelled=20)
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "rejected"


async def test_labels_that_never_come_end_the_wait(state: Path, world: World) -> None:
    fill_log(state, since=ONSET, labelled=5)
    async with retrainer(make_service(max_wait="0s"), state=state, world=world) as client:
        await alert(client, "promote")
        body = await until(
            client, "/v1/triggers", lambda b: b["triggers"][0]["fate"] == "suppressed"
        )
    assert body["triggers"][0]["reason"] == (
        "waited 0 s in vain for 60 labels since the onset; 20 so far"
    )


async def test_a_person_may_start_a_run_and_is_told_why_not(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        order = {"reason": "reject please", "actor": "ann"}
        assert (await client.post("/v1/runs", json={"reason": "x"})).status_code == 400
        first = await client.post("/v1/runs", json=order)
        assert first.status_code == 201
        second = await client.post("/v1/runs", json=order)
        assert second.status_code == 409
        assert second.json() == {"error": f"into run {first.json()['id']}"}
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        assert run["actor"] == "ann"
        # A person need not wait for the cooldown.
        assert (await client.post("/v1/runs", json=order)).status_code == 201
        assert (await client.get("/v1/runs/nothing")).status_code == 404


async def test_without_a_champion_a_first_model_is_made_once(
    tmp_path: Path, world: World, first_champion: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    service = make_service()
    async with retrainer(service, state=empty, world=world) as client:
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        assert (run["kind"], run["reason"]) == ("bootstrap", "there is no champion")
        assert run["outcome"] == "promoted-to-rollout"
    async with retrainer(service, state=empty, world=world) as client:  # its rollout is under way
        await asyncio.sleep(1.0)
        assert len((await client.get("/v1/runs")).json()["runs"]) == 1


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
        if not (left := _processes_of(run_id)):
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
from coalmine.retraining._webhook import parse_notification
from coalmine.spec import ServiceSpec

async def main():
    service = ServiceSpec.model_validate_json(pathlib.Path(sys.argv[1]).read_text())
    state = pathlib.Path(sys.argv[2])
    app = create_app(service, state=state, log_uri=f"sqlite:///{state}/records.db",
        quality_url=sys.argv[3] + "/quality", rollout_url=sys.argv[3] + "/rollout")
    async with app.router.lifespan_context(app):
        await app.state.retrainer.request(reason="linger", actor="test")
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


def _processes_of(run_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("COALMINE_RUN_ID") == run_id:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
