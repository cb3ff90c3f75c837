"""The performance monitor's evidence for rollouts: requests, instances, pairs, callers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coalmine.records import Label

from .performing import app_of, total


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
