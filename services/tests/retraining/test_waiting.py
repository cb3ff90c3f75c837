"""What a run waits for, and what it must not learn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import (
    EPOCH,
    ONSET,
    World,
    alert,
    fill_log,
    finished,
    make_service,
    retrainer,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


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
