"""A model that answers with a number: its errors, from records and labels over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coalmine.modeldir import ModelCard, write_card
from coalmine.records import BatchId, InferenceRecord, Label, record_batch
from coalmine_monitors import create_performance_app

CARD = ModelCard.model_validate(
    {
        "name": "demo",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1], "columns": [{"name": "x"}]}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 1], "columns": [{"name": "y"}]}
        ],
    }
)


async def test_errors_of_numbers_with_late_wrong_and_corrected_labels(
    world: Any, make_service: Any, run_app: Any
) -> None:
    (world.models / "1").mkdir(parents=True)
    write_card(world.models / "1", CARD)
    answer = world.rng.standard_normal((100, 8, 1)).astype(np.float32)
    truth = answer[:, :, 0].astype(float) + 0.5 + world.rng.standard_normal((100, 8))
    records = [
        InferenceRecord(f"n{index}", world.now + index / 100, "v2", 900, {"x": rows}, {"y": rows})
        for index, rows in enumerate(answer)
    ]
    batch = record_batch(records, card=CARD, model_version="1", arm="stable")
    world.log.append(batch, batch_id=BatchId("stable", 1, 800))
    world.log.put_labels(
        [
            Label(f"n{index}", str(value), world.now + 60, row)
            for index, values in enumerate(truth)
            for row, value in enumerate(values)
        ]
    )
    app = create_performance_app(
        make_service(), log=world.log, state=world.root / "performance.db", models=world.models
    )
    async with run_app(app) as client:
        await client.settled("/v1/performance")
        world.log.put_labels(
            [Label("n0", "broken", world.now + 70, 0), Label("n1", "7.25", world.now + 70, 0)]
        )
        shown = await client.settled("/v1/performance")
        evidence = await client.json("/v1/evidence")
        text = (await client.get("/metrics")).text
    truth[1, 0] = 7.25
    error = (answer[:, :, 0] - truth).reshape(-1)[1:]
    assert (shown["task"], shown["version"]) == ("regression", "1")
    assert "has no `metrics.mae`" in shown["problem"]
    (window,) = [window for window in shown["windows"] if window["labelled"]]
    assert (window["labelled"], window["accuracy"]) == (799, None)
    found = {name: measured["value"] for name, measured in window["metrics"].items()}
    assert found["mae"] == pytest.approx(abs(error).mean())
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert found["bias"] == pytest.approx(error.mean())
    assert 'kind="realised",metric="rmse"' in text
    assert sum(block["labelled"] for block in evidence["blocks"]) == 0, "no accuracy to compare"


@pytest.mark.parametrize("performance", [{"metric": "mae", "margin": 0.4}, {}])
async def test_larger_errors_than_at_the_evaluation_open_an_incident(
    world: Any, make_service: Any, run_app: Any, performance: Any
) -> None:
    (world.models / "1").mkdir(parents=True)
    write_card(world.models / "1", CARD.model_copy(update={"metrics": {"mae": 0.8}}))
    for minute in range(32):
        answer = world.rng.standard_normal((10, 8, 1)).astype(np.float32)
        size = 1.0 if minute < 8 else 3.0
        truth = answer[:, :, 0] + size * world.rng.standard_normal((10, 8))
        records = [
            InferenceRecord(f"{minute}-{i}", world.now + i / 10, "v2", 9, {"x": rows}, {"y": rows})
            for i, rows in enumerate(answer)
        ]
        batch = record_batch(records, card=CARD, model_version="1", arm="stable")
        world.log.append(batch, batch_id=BatchId("stable", 80 * minute + 1, 80 * minute + 80))
        world.log.put_labels(
            [
                Label(f"{minute}-{i}", str(value), world.now + 1 + i / 10, row)
                for i, values in enumerate(truth)
                for row, value in enumerate(values)
            ]
        )
        world.now += 1
    service = make_service(performance=performance)
    state = world.root / "performance.db"
    app = create_performance_app(service, log=world.log, state=state, models=world.models)
    async with run_app(app) as client:
        (incident,) = (await client.settled())["incidents"]
        shown = await client.json("/v1/performance")
        text = (await client.get("/metrics")).text
    assert "mae is" in incident["summary"]
    margin = performance.get("margin", 0.08)  # a tenth of what the evaluation found
    assert f"above {0.8 + margin:.4g}" in incident["summary"]
    assert incident["evidence"]["mae"] == pytest.approx(2.4, abs=0.5)
    assert incident["onset_at"] == pytest.approx(world.now - 24, abs=3)
    assert (shown["metric"], shown["baseline"]) == ("mae", 0.8)
    assert shown["threshold"] == pytest.approx(0.8 + margin)
    assert shown["problem"] is None
    assert 'coalmine_performance_threshold{metric="mae"' in text
