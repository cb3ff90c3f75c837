"""The performance monitor's windows: metrics, estimates before labels, and when they are mature."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from .performing import app_of, honest


async def test_accuracy_is_estimated_before_labels_come_and_checked_when_they_do(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    sent = world.send(300)
    first = honest(world, sent)
    async with run_app(app_of(world, make_service())) as client:
        before = await client.settled("/v1/performance")
    assert before["estimate_valid"] is True
    for window in before["windows"]:
        assert window["accuracy"] is None
        assert window["estimated_lower"] < window["estimated"] < window["estimated_upper"]
    world.label(first)
    async with run_app(app_of(world, make_service())) as client:
        after = await client.settled("/v1/performance")
        metrics = (await client.get("/metrics")).text
    assert after["estimate_valid"] is True
    inside = [
        window["estimated_lower"] <= window["accuracy"] <= window["estimated_upper"]
        for window in after["windows"]
    ]
    assert np.mean(inside) >= 0.9
    assert re.search(
        r'coalmine_performance{arm="stable",kind="estimated",metric="accuracy",[^}]*} 0\.9', metrics
    )
    assert "coalmine_performance_estimate_valid" in metrics
    # The same features now mean something else: the estimate cannot see it, its flag does.
    world.label(honest(world, world.send(300), wrong=0.3))
    async with run_app(app_of(world, make_service())) as client:
        broken = await client.settled("/v1/performance")
    assert broken["estimate_valid"] is False
    assert broken["windows"][-1]["estimated"] > 0.85
    async with run_app(app_of(world, make_service(), state="replayed.db")) as client:
        assert await client.settled("/v1/performance") == broken


async def test_metrics_of_windows_segments_and_arms_and_their_export(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.deploy("2")
    sent = world.send(400)
    truth = honest(world, sent)
    answers = (world.sent_rows.reshape(-1, 4)[:, 0] > 1).astype(int)
    true = np.array([classes for _, classes in truth]).reshape(-1)
    cold = world.sent_rows.reshape(-1, 4)[:, 1] < 0
    world.now -= 4  # at the same time
    candidate = honest(world, world.send(400, arm="canary", version="2"), wrong=0.3)
    world.label(truth)
    world.label(candidate)
    world.send(400)  # without labels
    service = make_service(segments=[{"feature": "b", "edges": [0]}])
    async with run_app(app_of(world, service)) as client:
        await client.settled("/v1/performance")
        shown = await client.json("/v1/performance", window=3600)
        part = await client.json("/v1/performance", window=3600, segment="b<0")
        text = (await client.get("/metrics")).text
    (window,) = shown["windows"]
    assert (shown["task"], shown["segments"]) == ("classification", ["b<0", "b>=0"])
    assert window["label_coverage"] == 0.5
    assert window["label_lag_s"] > 0
    right = answers == true
    metrics = window["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(right.mean())
    hits = [(right & (answers == k)).sum() for k in (0, 1)]
    f1 = [2 * h / ((answers == k).sum() + (true == k).sum()) for k, h in enumerate(hits)]
    assert metrics["f1"]["value"] == pytest.approx(np.mean(f1))
    assert window["classes"]["fault"]["f1"]["value"] == pytest.approx(f1[1])
    expected = {"accuracy", "precision", "recall", "f1", "brier", "log_loss", "calibration_error"}
    assert set(metrics) == expected | {"auc"}
    for name, measured in metrics.items():
        assert measured["lower"] <= measured["value"] <= measured["upper"], name
        assert f'metric="{name}",model_name="demo"' in text
    (of_cold,) = part["windows"]
    assert of_cold["labelled"] == cold.sum()
    assert of_cold["metrics"]["accuracy"]["value"] == pytest.approx(right[cold].mean())
    assert (
        'metric="accuracy",model_name="demo",monitor="accuracy",revision="1",segment="b<0"' in text
    )

    (loss,) = [item for item in shown["differences"] if item["metric"] == "accuracy"]
    assert (loss["arm"], loss["version"], loss["labelled"]) == ("canary", "2", 3200)
    assert loss["difference"] == pytest.approx(-0.27, abs=0.06)
    assert loss["lower"] < loss["difference"] < loss["upper"] < 0


async def test_a_window_is_scored_when_its_labels_are_mature(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    truth = world.send(200, right=0.9)
    service = make_service(performance={"maturity": 60})
    async with run_app(app_of(world, service)) as client:
        world.label(truth[:40])  # what fails early is labelled first
        early = await client.settled("/v1/performance")
        world.label(truth[40:])
        world.now += 120
        world.send(1)
        late = await client.settled("/v1/performance")
    for window in early["windows"]:
        assert (window["mature"], window["accuracy"], window["metrics"]) == (False, None, {})
    assert sum(window["labelled"] for window in early["windows"]) == 320
    scored = [window for window in late["windows"] if window["mature"]]
    assert sum(window["labelled"] for window in scored) == 1600
    assert all(window["metrics"]["accuracy"]["value"] > 0.7 for window in scored)


async def test_labels_may_take_longer_to_mature_than_windows_are_kept(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    service = make_service(performance={"maturity": "20d"})
    world.label(world.send(100, right=0.9))
    world.now += 20.5 * 86_400
    world.send(1)
    async with run_app(app_of(world, service)) as client:
        shown = await client.settled("/v1/performance")
    scored = [window for window in shown["windows"] if window["mature"]]
    assert sum(window["labelled"] for window in scored) == 800
    assert all(window["metrics"]["accuracy"]["value"] > 0.7 for window in scored)
