"""Streams of one value, from the service file and records to an incident."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coalmine_monitors import create_drift_app

DRIFT = {"window_rows": 200, "expected_run_length": 1000, "multivariate": []}
SHARE = {"stream": "label", "equals": "fault", "limit": 0.3, "run_length": 10_000, "block_rows": 8}


def app_of(world: Any, service: Any, state: str = "drift.db") -> Any:
    return create_drift_app(service, log=world.log, state=world.root / state, models=world.models)


async def test_a_share_beyond_its_limit_is_an_incident_with_its_onset(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    rng = np.random.default_rng(71)

    def more_faults(rows: Any) -> None:
        rows[rng.random(rows.shape[:2]) < 0.4, 0] += 3

    world.send(300)
    onset = world.now
    world.send(300, change=more_faults)
    # No effect is large enough for the windows, so that only the stream speaks.
    service = make_service(drift={**DRIFT, "min_effect": 50}, online=[SHARE])
    async with run_app(app_of(world, service)) as client:
        (incident,) = (await client.settled())["incidents"]
        (feature,) = incident["features"]
        assert feature["name"] == "label=fault"
        assert feature["direction"] == "up"
        assert feature["score"] > feature["threshold"] == 0.3
        assert incident["onset_at"] == pytest.approx(onset, abs=0.3)
        assert incident["closed_at"] is None
        assert "above 0.3" in incident["summary"]
        metrics = (await client.get("/metrics")).text
        assert 'coalmine_online_detected{model_name="demo",monitor="drift",revision="1"' in metrics
        world.send(600)
        (incident,) = (await client.settled())["incidents"]
        assert incident["closed_at"] is not None


async def test_a_restart_in_between_changes_nothing_and_mistakes_are_warnings(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    streams = [{"stream": "a"}, {"stream": "label"}, {"stream": "nowhere"}, SHARE]
    service = make_service(drift=DRIFT, online=streams)

    def moved(rows: Any) -> None:
        rows[:, :, 0] += 0.7

    world.send(330)
    async with run_app(app_of(world, service)) as client:
        await client.settled()
    world.send(230, change=moved)
    async with (
        run_app(app_of(world, service)) as client,
        run_app(app_of(world, service, "whole.db")) as whole,
    ):
        assert await client.settled() == await whole.settled()
        answer = await client.json("/v1/drift")
        assert answer["windows"] == (await whole.json("/v1/drift"))["windows"]
        assert set(answer["windows"][-1]["online"]) == {"a", "label=fault"}
        assert answer["windows"][-1]["online"]["a"]["detected"]
        (label, nowhere) = answer["warnings"]["1"]
        assert "say which one: `equals:` one of normal, fault" in label
        assert "no column 'nowhere'; it has a, b, c, check" in nowhere


@pytest.mark.parametrize(
    ("streams", "named"),
    [
        ([SHARE, SHARE], "listed more than once: label=fault"),
        ([{"stream": "a", "limit": 2}], "limit: 2 is not within `range`"),
        ([{"stream": "a", "limit": 2, "range": [3, 1]}], "is empty"),
        ([{"stream": "label", "equals": "fault"}], "`equals` need one"),
        ([{"stream": "a", "run_length": 100, "block_rows": 60}], "two blocks of 60"),
    ],
)
def test_settings_that_make_no_sense_are_named(make_service: Any, streams: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_service(online=streams)
