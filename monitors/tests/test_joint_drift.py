"""The drift monitor on changes that no feature shows alone, from records to an incident."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from coalmine_monitors import create_drift_app

JOINT = {"window_rows": 200, "expected_run_length": 1000}
ALONE = {**JOINT, "multivariate": []}


def together(rows: Any, correlation: float) -> None:
    """Make b and c go together; each is distributed as before."""
    rows[:, :, 2] = correlation * rows[:, :, 1] + np.sqrt(1 - correlation**2) * rows[:, :, 2]


def app_of(world: Any, service: Any, state: str) -> Any:
    return create_drift_app(service, log=world.log, state=world.root / state, models=world.models)


def deploy(world: Any, correlation: float) -> None:
    world.deploy()
    path = world.models / "1" / "reference.parquet"
    table = pq.read_table(path)
    b, c = (table.column(name).to_numpy() for name in "bc")
    mixed = correlation * b + np.sqrt(1 - correlation**2) * c
    pq.write_table(table.set_column(2, "c", [mixed]), path)


async def test_a_relation_that_turns_is_an_incident_that_names_its_features(
    world: Any, make_service: Any, run_app: Any
) -> None:
    deploy(world, 0.8)
    world.send(400, change=lambda rows: together(rows, 0.8))
    onset = world.now
    world.send(200, change=lambda rows: together(rows, -0.8))
    whole = app_of(world, make_service(drift=JOINT), "drift.db")
    alone = app_of(world, make_service(drift=ALONE), "alone.db")
    async with run_app(whole) as client, run_app(alone) as other:
        assert (await other.settled())["incidents"] == []
        (incident,) = (await client.settled())["incidents"]
        assert {feature["name"] for feature in incident["features"]} == {"b", "c"}
        assert incident["features"][0]["statistic"] in {"pca", "domain_classifier", "mmd"}
        assert incident["summary"].endswith("none of them moved alone")
        assert incident["opened_at"] - onset <= 3 * 200 / 8 * 0.01
        metrics = (await client.get("/metrics")).text
        assert 'coalmine_drift_score{feature="",model_name="demo",monitor="drift"' in metrics
        assert 'coalmine_evidence_log{feature="b",model_name' in metrics
        last = (await client.json("/v1/drift", limit=1))["windows"][-1]
        assert set(last["together"]) == {"pca", "domain_classifier", "mmd"}
        assert last["together"]["pca"]["score"] > last["together"]["pca"]["threshold"]
        world.send(400, change=lambda rows: together(rows, 0.8))  # as it was
        (incident,) = (await client.settled())["incidents"]
        assert incident["closed_at"] is not None


async def test_a_feature_that_moves_alone_is_named_alone(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(400)

    def moved(rows: Any) -> None:
        rows[:, :, 1] += 1.5

    world.send(200, change=moved)
    async with run_app(app_of(world, make_service(drift=JOINT), "drift.db")) as client:
        (incident,) = (await client.settled())["incidents"]
        assert [feature["name"] for feature in incident["features"]] == ["b"]
        assert incident["features"][0]["statistic"] == "psi"


async def test_segments_and_statistics_of_all_columns_go_along(
    world: Any, make_service: Any, run_app: Any
) -> None:
    deploy(world, 0.8)
    world.send(200, change=lambda rows: together(rows, 0.8))
    world.send(200, change=lambda rows: together(rows, -0.8))
    service = make_service(drift=JOINT, segments=[{"feature": "a", "edges": [0.0]}])
    async with run_app(app_of(world, service, "drift.db")) as client:
        (incident,) = (await client.settled())["incidents"]
        assert {feature["name"] for feature in incident["features"]} == {"b", "c"}


async def test_the_true_shares_are_estimated_and_shown(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()

    def more_faults(rows: Any) -> None:
        rows[rng.random(rows.shape[:2]) < 0.4, 0] += 3

    rng = np.random.default_rng(61)
    world.send(300, change=more_faults)
    async with run_app(app_of(world, make_service(drift=ALONE), "drift.db")) as client:
        await client.settled()
        last = (await client.json("/v1/drift"))["windows"][-1]
        fault = last["classes"]["shares"]["fault"]
        assert fault["lower"] < fault["estimated"] < fault["upper"]
        assert fault["lower"] > fault["reference"] + 0.1
        assert last["classes"]["explained"]
        metrics = (await client.get("/metrics")).text
        assert 'coalmine_class_share_ratio{class="fault",model_name="demo"' in metrics
        assert 'coalmine_class_share_valid{model_name="demo",monitor="drift"' in metrics


def test_a_statistic_is_listed_once(make_service: Any) -> None:
    with pytest.raises(ValueError, match="listed more than once: pca"):
        make_service(drift={"multivariate": ["pca", "mmd", "pca"]})
