"""The performance monitor's incidents: of lost accuracy, and of nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coalmine.records import Label

from .conftest import CLASSES
from .performing import app_of, honest, total


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
