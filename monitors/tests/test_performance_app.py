"""The performance monitor: evidence for rollouts, and incidents of lost accuracy."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest

from coalmine.records import Label
from coalmine_monitors import create_performance_app

from .conftest import CLASSES, truth_of


def app_of(world: Any, service: Any, state: str = "performance.db") -> Any:
    return create_performance_app(
        service, log=world.log, state=world.root / state, models=world.models
    )


def total(evidence: Any, key: str, **where: str) -> int:
    return sum(
        block[key]
        for block in evidence["blocks"]
        if all(block[name] == value for name, value in where.items())
    )


async def test_evidence_counts_requests_once_and_instances_by_label(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.label(world.send(300, right=0.9))
    world.send(50, status=503, latency_us=2_000_000)
    world.send(40, arm="canary", version="2", latency_us=12)
    world.now += 5
    world.send(1)
    async with run_app(app_of(world, make_service())) as client:
        evidence = await client.settled("/v1/evidence")
    edges = evidence["latency_edges_us"]
    assert (len(edges), edges[0], edges[20], edges[-1]) == (101, 100, 1000, 10_000_000)
    assert total(evidence, "requests", arm="stable") == 350
    assert total(evidence, "errors", arm="stable") == 50
    assert total(evidence, "instances", arm="stable") == 2400
    assert total(evidence, "labelled", arm="stable") == 2400
    assert total(evidence, "correct", arm="stable") == pytest.approx(2160, abs=60)
    assert total(evidence, "requests", arm="canary", version="2") == 40
    counts = np.sum([block["latency_counts"] for block in evidence["blocks"]], axis=0)
    assert counts.sum() == 390
    assert counts[0] == 40, "faster than the first edge"
    slow = sum(counts[index + 1] for index, edge in enumerate(edges) if edge >= 1_000_000)
    assert slow == 50
    assert evidence["label_coverage"] == pytest.approx(2400 / 2720)
    names = evidence["prediction_names"]
    assert names == sorted(set(names))
    assert len(names) >= 2
    for block in evidence["blocks"]:
        assert sum(block["predictions"] or [0]) == block["instances"]
    assert any(block["predictions"] for block in evidence["blocks"] if block["arm"] == "canary")
    for block in evidence["blocks"]:
        assert block["time"] + evidence["block_s"] <= evidence["evaluated_to"]


async def test_pairs_are_rows_that_stable_and_shadow_both_answered(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    state = world.rng.bit_generator.state
    truth = world.send(200)
    world.rng.bit_generator.state = state  # the same rows ...
    world.now -= 2.0

    def broken(rows: Any) -> None:
        rows[:, :4, 0] = 5.0  # ... but the shadow answers `fault` for half of them

    world.send(200, arm="shadow", version="2", ids=[name for name, _ in truth], change=broken)
    world.label(truth)
    world.now += 5
    world.send(1)
    async with run_app(app_of(world, make_service())) as client:
        evidence = await client.settled("/v1/evidence")
    sums = {
        key: sum(pair[key] for pair in evidence["pairs"])
        for key in ("both_right", "only_a", "only_b", "both_wrong")
    }
    assert sum(sums.values()) == 1600
    assert sums["only_a"] == total(evidence, "labelled", arm="shadow") - total(
        evidence, "correct", arm="shadow"
    )
    assert sums["only_a"] > 500
    assert (sums["only_b"], sums["both_wrong"]) == (0, 0)
    pair = evidence["pairs"][0]
    assert (pair["a_arm"], pair["b_arm"]) == ("stable", "shadow")
    assert (pair["a_version"], pair["b_version"]) == ("1", "2")


@pytest.mark.parametrize("order", ["labels first", "records first", "in turns"])
async def test_the_order_of_labels_and_records_does_not_matter(
    world: Any, make_service: Any, run_app: Any, order: str
) -> None:
    world.deploy()
    world.send(100)  # makes the version known
    app = app_of(world, make_service())
    ids = [f"x{index}" for index in range(100)]
    truth = [(name, [0] * 8) for name in ids]
    if order == "labels first":
        async with run_app(app) as client:
            world.label(truth)
            await client.settled("/v1/evidence")
            world.send(100, ids=ids)
            world.now += 5
            world.send(1)
            evidence = await client.settled("/v1/evidence")
    else:
        async with run_app(app) as client:
            world.send(100, ids=ids)
            if order == "in turns":
                world.label(truth[:50])
                await client.settled("/v1/evidence")
            world.label(truth[50:] if order == "in turns" else truth)
            world.now += 5
            world.send(1)
            evidence = await client.settled("/v1/evidence")
    assert total(evidence, "labelled") == 800
    assert 0 < total(evidence, "correct") < 800


async def test_late_and_corrected_labels_change_the_block_of_the_record(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    truth = world.send(100)
    until = world.now
    world.now += 5
    world.send(1)
    async with run_app(app_of(world, make_service())) as client:
        before = await client.settled("/v1/evidence")
        assert total(before, "labelled") == 0
        world.now += 3600
        world.label(truth)
        once = await client.settled("/v1/evidence")
        assert total(once, "correct") == total(once, "labelled") == 800
        assert all(block["time"] <= until for block in once["blocks"])
        world.label(truth)  # repeated: the log does not even pass it on
        name, classes = truth[0]
        world.log.put_labels([Label(name, str(1 - classes[0]), world.now + 1, 0)])
        twice = await client.settled("/v1/evidence")
        assert total(twice, "labelled") == 800
        assert total(twice, "correct") == 799


async def test_a_request_recorded_twice_by_a_retry_is_labelled_once(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    truth = world.send(50)
    world.send(50, ids=[name for name, _ in truth])
    world.label(truth)
    world.now += 5
    world.send(1)
    async with run_app(app_of(world, make_service())) as client:
        evidence = await client.settled("/v1/evidence")
    assert total(evidence, "requests") == 100
    assert total(evidence, "labelled") == 400


async def test_since_and_until_cut_blocks(world: Any, make_service: Any, run_app: Any) -> None:
    world.deploy()
    world.send(1000)
    async with run_app(app_of(world, make_service())) as client:
        whole = await client.settled("/v1/evidence")
        times = [block["time"] for block in whole["blocks"]]
        assert times == sorted(set(times))
        part = await client.json("/v1/evidence", since=times[3], until=times[6])
        assert [block["time"] for block in part["blocks"]] == times[3:6]


async def test_lost_accuracy_becomes_an_incident_with_its_onset(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy(accuracy=0.95)
    for _ in range(20):
        world.label(world.send(100, right=0.95))
    onset = world.now
    for _ in range(20):
        world.label(world.send(100, right=0.8))
    async with run_app(app_of(world, make_service())) as client:
        (incident,) = (await client.settled())["incidents"]
        assert incident["kind"] == "accuracy"
        assert incident["onset_at"] == pytest.approx(onset, abs=4)
        assert incident["evidence"]["accuracy"] == pytest.approx(0.8, abs=0.03)
        performance = await client.json("/v1/performance")
        assert performance["baseline"] == 0.95
        assert performance["threshold"] == pytest.approx(0.9)
        windows = performance["windows"]
        assert windows[0]["lower"] < 0.95 < windows[0]["upper"]
        assert windows[-2]["upper"] < 0.95
        metrics = (await client.get("/metrics")).text
        assert 'coalmine_incident_open{feature="",kind="accuracy",model_name="demo"' in metrics

        for _ in range(40):
            world.label(world.send(100, right=0.95))
        (incident,) = (await client.settled())["incidents"]
        assert incident["closed_at"] is not None


async def test_a_good_model_and_a_bad_candidate_open_nothing(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy(accuracy=0.95)
    for _ in range(15):
        world.label(world.send(100, right=0.95))
        world.label(world.send(50, right=0.5, arm="canary", version="2"))
    async with run_app(app_of(world, make_service())) as client:
        assert (await client.settled())["incidents"] == []


async def test_a_promoted_version_closes_the_incident(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy("1", accuracy=0.95)
    world.deploy("2", accuracy=0.9)
    for _ in range(15):
        world.label(world.send(100, right=0.7))
    async with run_app(app_of(world, make_service())) as client:
        (incident,) = (await client.settled())["incidents"]
        assert incident["closed_at"] is None
        for _ in range(5):
            world.label(world.send(100, right=0.95, version="2"))
        (incident,) = (await client.settled())["incidents"]
        assert incident["closed_at"] is not None
        assert (await client.json("/v1/performance"))["baseline"] == 0.9


async def test_a_model_without_evaluation_is_counted_but_not_judged(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy(accuracy=None)
    for _ in range(10):
        world.label(world.send(100, right=0.3))
    async with run_app(app_of(world, make_service())) as client:
        assert (await client.settled())["incidents"] == []
        assert total(await client.json("/v1/evidence"), "labelled") > 0


def honest(world: Any, sent: Any, *, wrong: float = 0.0) -> Any:
    """The truth that the model is as sure of as it says; a share `wrong` of it turned round."""
    rows = world.sent_rows.reshape(-1, world.sent_rows.shape[-1])
    truth = truth_of(rows, world.rng)
    truth = np.where(world.rng.random(len(truth)) < wrong, 1 - truth, truth)
    per_request = truth.reshape(len(sent), -1)
    return [(name, list(map(int, of))) for (name, _), of in zip(sent, per_request, strict=True)]


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


async def judged(client: Any) -> Any:
    """The incidents once all that was sent, to the last record, is judged."""
    for _ in range(300):
        shown = await client.json("/v1/performance")
        if shown["evaluated_to"] >= client.world.now - 1e-6:
            return (await client.json("/v1/incidents"))["incidents"]
        await asyncio.sleep(0.2)
    raise AssertionError("the monitor does not get to the end of the log")


async def test_what_fails_early_and_is_labelled_first_opens_no_incident(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy(accuracy=0.95)
    service = make_service(performance={"maturity": 60})
    late = []
    for _ in range(8):
        sent = world.send(100, right=0.95)
        failed: list[Label] = []
        said = (world.sent_rows[:, :, 0] > 1).astype(int).tolist()
        for (name, true), answers in zip(sent, said, strict=True):
            for row, (klass, answer) in enumerate(zip(true, answers, strict=True)):
                label = Label(name, CLASSES[klass], world.now, row)
                (late if klass == answer else failed).append(label)
        world.log.put_labels(failed)
    async with run_app(app_of(world, make_service(), state="at-once.db")) as client:
        (hasty,) = (await client.settled())["incidents"]
        assert hasty["summary"].startswith("accuracy is")
    for path in world.root.glob("at-once.db*"):
        path.unlink()  # nobody waits for it any more
    async with run_app(app_of(world, service)) as client:
        assert await judged(client) == []
        world.log.put_labels([label._replace(time=world.now) for label in late])
        world.now += 61
        world.send(1)
        assert await judged(client) == []
    since = world.now
    for _ in range(14):
        world.label(world.send(100, right=0.7))
    world.send(1)
    async with run_app(app_of(world, service)) as client:
        assert await judged(client) == [], "its labels are young"
        world.now += 61
        world.send(1)
        (incident,) = await judged(client)
        shown = await client.json("/v1/performance")
    assert incident["onset_at"] == pytest.approx(since, abs=3)
    async with run_app(app_of(world, service, state="replayed.db")) as client:
        assert await judged(client) == [incident]
        assert await client.json("/v1/performance") == shown


async def test_callers_are_added_up_by_block_and_left_out_where_unknown(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    for caller, status in ((7, 200), (7, 200), (7, 503), (9, 200), (-1, 200), (-1, 500)):
        world.send(1, status=status, caller=caller)
    world.send(5, arm="canary", version="2")  # nobody looked who called
    world.now += 5
    world.send(1, caller=9)
    async with run_app(app_of(world, make_service())) as client:
        evidence = await client.settled("/v1/evidence")
    (callers,) = evidence["callers"]
    # 7: three requests and one error; 9: two and none; the others are callers of their own.
    assert callers == {
        "version": "1",
        "arm": "stable",
        "callers": 4,
        "requests": 7,
        "errors": 2,
        "requests_squared": 9 + 4 + 1 + 1,
        "requests_errors": 3 + 1,
        "errors_squared": 1 + 1,
    }


async def test_a_record_of_shed_requests_counts_as_many_as_it_says(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    world.send(20)
    world.send(1, status=429, shed=500, latency_us=0, caller=3)
    world.now += 5
    world.send(1)
    async with run_app(app_of(world, make_service())) as client:
        evidence = await client.settled("/v1/evidence")
    assert total(evidence, "requests", arm="stable") == 520
    assert total(evidence, "errors", arm="stable") == 500
    assert total(evidence, "instances", arm="stable") == 160


async def test_a_loss_may_be_what_an_incident_is_about(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    path = world.models / "1" / "model.yaml"
    path.write_text(path.read_text().replace("accuracy: 0.95", "log_loss: 0.22"))
    service = make_service(performance={"metric": "log_loss", "margin": 0.15})
    for _ in range(8):
        world.label(honest(world, world.send(60)))
    async with run_app(app_of(world, service)) as client:
        assert (await client.settled())["incidents"] == []
        for _ in range(30):
            world.label(honest(world, world.send(60), wrong=0.3))
        (incident,) = (await client.settled())["incidents"]
    assert "log_loss is" in incident["summary"]
    assert incident["evidence"]["log_loss"] > 0.37
