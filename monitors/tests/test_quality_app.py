"""The quality monitor, from records in a real log to an incident over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalmine_monitors import create_quality_app


def miscalibrated(rows: Any) -> None:
    rows[:, :, 3] += 2


def out_of_range(rows: Any) -> None:
    rows[:, ::2, 0] = 80


def missing(rows: Any) -> None:
    rows[:, ::4, 2] = np.nan


def app_of(world: Any, service: Any) -> Any:
    return create_quality_app(
        service, log=world.log, state=world.root / "quality.db", models=world.models
    )


async def test_a_miscalibrated_sensor_is_found_within_three_windows_and_named(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(300)
    onset = world.now
    world.send(100, change=miscalibrated)
    async with run_app(app_of(world, make_service())) as client:
        (incident,) = (await client.settled())["incidents"]
        feature = incident["features"][0]
        assert (feature["name"], feature["sensor"], feature["direction"]) == ("check", "pack", "up")
        assert "look at sensor pack" in incident["summary"]
        assert incident["opened_at"] - onset < 4 * 100 / 8 * 0.01

        world.send(100)
        (incident,) = (await client.settled())["incidents"]
        assert incident["closed_at"] is not None


async def test_each_fault_is_reported_in_one_incident(
    world: Any, make_service: Any, run_app: Any
) -> None:
    def both(rows: Any) -> None:
        out_of_range(rows)
        missing(rows)

    world.deploy()
    world.send(100)
    world.send(100, change=both)
    async with run_app(app_of(world, make_service())) as client:
        (incident,) = (await client.settled())["incidents"]
        found = {feature["name"]: feature["statistic"] for feature in incident["features"]}
        assert found == {"a": "range", "c": "missing"}
        windows = (await client.json("/v1/quality"))["windows"]
        assert windows[-1]["faults"]


async def test_nothing_happens_and_nothing_is_said(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(2000)
    world.send(50, status=500)  # failed requests have no features, which are not missing
    async with run_app(app_of(world, make_service())) as client:
        assert (await client.settled())["incidents"] == []
