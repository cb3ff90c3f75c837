"""The drift monitor, from records in a real log to an incident over HTTP."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from coalmine.records import RecordLog
from coalmine_monitors import _catalog as catalog
from coalmine_monitors import _state, create_drift_app


def shifted(rows: Any) -> None:
    rows[:, :, 1] += 1.5


def checks_shifted(rows: Any) -> None:
    rows[:, :, 3] += 5


def app_of(world: Any, service: Any, state: str = "drift.db") -> Any:
    return create_drift_app(service, log=world.log, state=world.root / state, models=world.models)


async def test_a_shift_becomes_one_incident_that_names_the_feature(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(800)
    onset = world.now
    world.send(200, change=shifted)
    async with run_app(app_of(world, make_service())) as client:
        answer = await client.settled()
        (incident,) = answer["incidents"]
        assert incident["kind"] == "drift"
        assert [feature["name"] for feature in incident["features"]] == ["b"]
        assert incident["features"][0]["direction"] == "up"
        assert incident["features"][0]["score"] > 0.2
        window = 200 / 8 * 0.01
        assert incident["onset_at"] == pytest.approx(onset, abs=2 * window)
        assert incident["opened_at"] - onset <= 5 * window
        assert answer["evaluated_to"] == pytest.approx(world.now, abs=2 * window)

        world.send(600)  # back to normal
        answer = await client.settled()
        (incident,) = answer["incidents"]
        assert incident["closed_at"] is not None
        assert (await client.json("/v1/incidents", open=True))["incidents"] == []

        windows = (await client.json("/v1/drift"))["windows"]
        assert len(windows) == 1600 * 8 // 200
        assert set(windows[-1]["features"]) == {"a", "b", "c", "label"}
        assert max(window["features"]["b"]["score"] for window in windows) > 0.2
        metrics = (await client.get("/metrics")).text
        assert 'coalmine_drift_score{feature="b",model_name="demo",monitor="drift"' in metrics
        assert 'coalmine_incidents_total{kind="drift",model_name="demo"' in metrics


async def test_a_feature_that_moves_the_predictions_too_is_one_incident(
    world: Any, make_service: Any, run_app: Any
) -> None:
    def hotter(rows: Any) -> None:
        rows[:, :, 0] += 1.5  # the class answered is that of `a` > 1

    world.deploy()
    world.send(400)
    seen = []
    async with run_app(app_of(world, make_service())) as client:
        for _ in range(3):
            world.send(150, change=hotter)
            (incident,) = (await client.settled())["incidents"]
            seen.append(incident)
        world.send(600)
        (closed,) = (await client.settled())["incidents"]
    assert {incident["id"] for incident in [*seen, closed]} == {closed["id"]}
    assert [incident["closed_at"] is None for incident in [*seen, closed]] == [True] * 3 + [False]
    for incident in seen:
        assert {feature["name"] for feature in incident["features"]} == {"a", "label"}
        assert incident["onset_at"] == seen[0]["onset_at"]
    assert seen[-1]["evidence"] != seen[0]["evidence"], "an open incident is kept up to date"


async def test_an_open_incident_shows_in_the_metrics(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(400)
    world.send(200, change=shifted)
    async with run_app(app_of(world, make_service())) as client:
        await client.settled()
        metrics = (await client.get("/metrics")).text
        line = (
            'coalmine_incident_open{feature="b",kind="drift",model_name="demo",monitor="drift",'
            'revision="1"} 1.0'
        )
        assert line in metrics


async def test_nothing_happens_and_nothing_is_said(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(3000)
    async with run_app(app_of(world, make_service())) as client:
        assert (await client.settled())["incidents"] == []


async def test_the_shadow_other_versions_sensor_checks_and_failed_requests_are_no_drift(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(200)
    for _ in range(8):
        world.send(25, arm="shadow", version="2", change=shifted)
        world.send(25, arm="canary", version="2", change=shifted)
        world.send(25, change=checks_shifted)
        world.send(25, status=500)
    async with run_app(app_of(world, make_service())) as client:
        answer = await client.settled()
        assert answer["incidents"] == []
        windows = (await client.json("/v1/drift"))["windows"]
        assert len(windows) == (200 + 8 * 25) * 8 // 200


async def test_a_new_stable_version_closes_the_old_ones_incident_and_has_its_own_reference(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy("1")
    world.deploy("2")
    reference = world.models / "2" / "reference.parquet"
    table = pq.read_table(reference)
    moved = table.column("b").to_numpy() + 1.5
    pq.write_table(table.set_column(1, "b", [moved]), reference)
    world.send(400)
    world.send(200, change=shifted)
    world.send(400, version="2", change=shifted)
    world.now -= 3  # spooled by the old server before it was replaced
    world.send(25, version="1", change=shifted)
    world.now += 10
    world.send(400, version="2", change=shifted)
    async with run_app(app_of(world, make_service())) as client:
        answer = await client.settled()
        (incident,) = answer["incidents"]
        assert (incident["model_version"], incident["closed_at"] is None) == ("1", False)
        windows = (await client.json("/v1/drift", version="2"))["windows"]
        assert len(windows) == 800 * 8 // 200


async def test_records_wait_for_the_reference_of_a_version_being_deployed(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    aside = world.root / "aside"
    shutil.move(world.models / "1", aside)
    world.send(400)
    async with run_app(app_of(world, make_service())) as client:
        await asyncio.sleep(1)  # a few steps of the monitor
        assert (await client.json("/v1/incidents"))["evaluated_to"] == 0
        shutil.move(aside, world.models / "1")
        answer = await client.settled()
        assert answer["evaluated_to"] > 0
        assert len((await client.json("/v1/drift"))["windows"]) == 400 * 8 // 200


async def test_a_version_without_reference_passes_unjudged_and_is_counted(
    world: Any, make_service: Any, run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog.Catalog.__init__, "__kwdefaults__", {"patience": 0.0})
    world.deploy(windows=3)
    world.send(200)
    async with run_app(app_of(world, make_service())) as client:
        await client.settled()
        metrics = (await client.get("/metrics")).text
        assert "coalmine_monitor_unjudged_rows_total" in metrics
        assert 'revision="1"} 1600.0' in metrics


async def test_bad_questions_get_an_error_in_our_form(
    world: Any, make_service: Any, run_app: Any
) -> None:
    async with run_app(app_of(world, make_service())) as client:
        answer = await client.get("/v1/drift", params={"limit": "many"})
        assert answer.status_code == 400
        assert "limit" in answer.json()["error"]
        assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_a_log_that_fails_for_a_while_delays_and_loses_nothing(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(400)
    world.send(200, change=shifted)

    class Flaky:
        def __init__(self, log: RecordLog) -> None:
            self._log, self._calls = log, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._log, name)

        def end_offset(self, partition: int = 0) -> int:
            self._calls += 1
            if self._calls in (1, 2):
                raise OSError("no such disk")  # after the step was committed
            return self._log.end_offset(partition)

    app = create_drift_app(
        make_service(), log=Flaky(world.log), state=world.root / "f.db", models=world.models
    )
    async with run_app(app) as client, run_app(app_of(world, make_service())) as plain:
        assert await client.settled() == await plain.settled()
        assert await client.json("/v1/drift") == await plain.json("/v1/drift")
        for _ in range(300):  # shown once a step has gone well
            metrics = (await client.get("/metrics")).text
            if "coalmine_monitor_errors_total" in metrics:
                break
            await asyncio.sleep(0.2)
        assert "coalmine_monitor_errors_total" in metrics


def test_the_state_file_is_where_it_was_asked_for(world: Any, make_service: Any) -> None:
    app_of(world, make_service(), "sub/drift.db")
    assert (Path(world.root) / "sub" / "drift.db").exists()


async def test_a_locked_state_file_delays_and_loses_nothing(
    world: Any, make_service: Any, run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_state, "_BUSY_SECONDS", 0.1)
    world.deploy()
    world.send(400)
    app = app_of(world, make_service())
    async with run_app(app) as client:
        await client.settled()
        with closing(sqlite3.connect(world.root / "drift.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            world.send(400)
            await asyncio.sleep(1)
            assert len((await client.json("/v1/drift"))["windows"]) == 400 * 8 // 200
            other.execute("ROLLBACK")
        await asyncio.sleep(1)
        await client.settled()
        assert len((await client.json("/v1/drift"))["windows"]) == 800 * 8 // 200


async def test_windows_and_incidents_of_a_time_range(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(300)
    middle = world.now

    def moved(rows: Any) -> None:
        rows[:, :, 1] += 3

    world.send(300, change=moved)
    async with run_app(app_of(world, make_service())) as client:
        await client.settled()
        whole = (await client.json("/v1/drift"))["windows"]
        before = (await client.json("/v1/drift", until=middle))["windows"]
        after = (await client.json("/v1/drift", since=middle))["windows"]
        assert before
        assert before + after == whole
        assert all(window["end"] < middle for window in before)
        (incident,) = (await client.json("/v1/incidents", since=middle))["incidents"]
        assert (await client.json("/v1/incidents", until=middle))["incidents"] == []
        later = incident["opened_at"] + 1e6
        assert (await client.json("/v1/incidents", since=later))["incidents"] == [incident]
        refused = await client.get("/v1/drift", params={"since": "yesterday"})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("since: ")
