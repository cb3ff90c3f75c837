"""The embedded notifier: what the receiver of alerts is told, through restarts and outages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from coalmine.clock import Clock, ManualClock
from coalmine.incidents import AffectedFeature, Incident
from coalmine.incidents._alerts import REPEAT
from coalmine.stack._notifier import create_notifier

if TYPE_CHECKING:
    from conftest import World

SOC = AffectedFeature(name="soc", statistic="psi", score=1.0, threshold=0.2, sensor="bms-7")
INCIDENT = Incident(
    id="i-1",
    kind="data_quality",
    model_name="ev",
    model_version="3",
    summary="soc is stuck",
    onset_at=1_699_999_980.0,
    opened_at=1_700_000_000.0,
    updated_at=12.0,
    features=(SOC,),
)


@asynccontextmanager
async def notifier(
    world: World, state: Path, *, clock: Clock | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_notifier(
        {"quality": world.url},
        receiver=f"{world.url}/alerts",
        external_url="http://notifier",
        state=state,
        clock=clock or ManualClock(start=1_700_000_100.0),
        interval=0.02,
    )
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=transport, base_url="http://notifier") as client:
            yield client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def statuses(world: World) -> list[str]:
    return [told["status"] for told in world.told]


async def test_an_incident_is_told_once_and_its_end_once(world: World, tmp_path: Path) -> None:
    world.incidents = [INCIDENT]
    async with notifier(world, tmp_path / "n.json") as client:
        await until(lambda: bool(world.told))
        await asyncio.sleep(0.2)
        assert statuses(world) == ["firing"]
        assert "coalmine_alerts_firing 1.0" in (await client.get("/metrics")).text
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        world.incidents = [INCIDENT.model_copy(update={"closed_at": 20.0})]
        await until(lambda: len(world.told) == 2)
        await asyncio.sleep(0.2)
        assert statuses(world) == ["firing", "resolved"]
        assert (await client.get("/v1/alerts")).json() == {"alerts": []}


async def test_the_body_is_alertmanagers(world: World, tmp_path: Path) -> None:
    world.incidents = [INCIDENT]
    async with notifier(world, tmp_path / "n.json"):
        await until(lambda: bool(world.told))
    body = world.told[0]
    (alert,) = body.pop("alerts")
    labels = {
        "alertname": "CoalmineDataQuality",
        "model_name": "ev",
        "revision": "3",
        "incident": "i-1",
        "feature": "soc",
    }
    annotations = {
        "summary": "soc is stuck",
        "onset": "2023-11-14T22:13:00.000Z",
        "features": "soc",
        "sensor": "bms-7",
    }
    assert body == {
        "version": "4",
        "groupKey": '{}:{alertname="CoalmineDataQuality", incident="i-1"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "coalmine",
        "groupLabels": {"alertname": "CoalmineDataQuality", "incident": "i-1"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "http://notifier",
    }
    assert len(alert.pop("fingerprint")) == 16
    assert alert == {
        "status": "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": "2023-11-14T22:13:20.000Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": f"{world.url}/v1/incidents",
    }


async def test_a_receiver_that_is_away_is_told_when_it_is_back(
    world: World, tmp_path: Path
) -> None:
    world.incidents, world.receiver_away = [INCIDENT], True
    async with notifier(world, tmp_path / "n.json"):
        await until((tmp_path / "n.json").exists)
        world.incidents = []  # over before anyone could be told: it still happened
        await asyncio.sleep(0.1)
        assert world.told == []
        world.receiver_away = False
        await until(lambda: len(world.told) == 2)
    assert statuses(world) == ["firing", "resolved"]


async def test_a_restart_neither_loses_an_alert_nor_repeats_it(
    world: World, tmp_path: Path
) -> None:
    state = tmp_path / "n.json"
    world.incidents, world.receiver_away = [INCIDENT], True
    async with notifier(world, state):
        await until(state.exists)
    world.monitor_away, world.receiver_away = True, False
    async with notifier(world, state):
        await until(lambda: bool(world.told))
    async with notifier(world, state):
        await asyncio.sleep(0.2)
    assert statuses(world) == ["firing"]


async def test_a_monitor_that_is_away_resolves_nothing(world: World, tmp_path: Path) -> None:
    world.incidents = [INCIDENT]
    async with notifier(world, tmp_path / "n.json"):
        await until(lambda: bool(world.told))
        world.monitor_away = True
        await asyncio.sleep(0.2)
        assert statuses(world) == ["firing"]


async def test_an_open_incident_is_told_again_after_a_while(world: World, tmp_path: Path) -> None:
    clock = ManualClock(start=1_700_000_100.0)
    world.incidents = [INCIDENT]
    state = tmp_path / "n.json"
    async with notifier(world, state, clock=clock):
        await until(lambda: state.exists() and json.loads(state.read_text())["i-1"]["told_at"])
        clock.advance(REPEAT - 1)
        await asyncio.sleep(0.2)
        assert len(world.told) == 1
        clock.advance(1)
        await until(lambda: len(world.told) == 2)
    assert statuses(world) == ["firing", "firing"]


@pytest.mark.parametrize("damage", ["{", '{"i-1": {}}', "[]"])
async def test_a_damaged_state_is_begun_anew(world: World, tmp_path: Path, damage: str) -> None:
    (tmp_path / "n.json").write_text(damage)
    world.incidents = [INCIDENT]
    async with notifier(world, tmp_path / "n.json"):
        await until(lambda: bool(world.told))


async def test_a_full_disk_delays_and_does_not_end_it(world: World, tmp_path: Path) -> None:
    state = tmp_path / "absent" / "n.json"
    world.incidents = [INCIDENT]
    async with notifier(world, state):
        await asyncio.sleep(0.1)
        assert world.told == []
        state.parent.mkdir()
        await until(lambda: bool(world.told))
