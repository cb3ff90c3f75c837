"""Runs of a real pipeline, from an alert to a rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import (
    ONSET,
    World,
    alert,
    fill_log,
    finished,
    make_service,
    processes_of,
    retrainer,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


async def test_an_alert_becomes_a_rollout_of_a_new_version(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        assert await alert(client, "promote") == {"accepted": 1}
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        metrics = (await client.get("/metrics")).text
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    assert run["outcome"] == "promoted-to-rollout"
    assert run["version"] == "2"
    assert run["since"] == ONSET
    assert run["reasons"] == ["because of CoalmineAccuracyLoss: promote"]
    assert {"work", "register", "notify"} <= set(run["steps"])
    assert world.offers == [
        {
            "version": "2",
            "shadow": True,
            "reason": "CoalmineAccuracyLoss: promote",
            "actor": "retrainer",
        }
    ]
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]
    assert [(t["fate"], t["run"]) for t in triggers] == [("accepted", run["id"])]
    assert 'coalmine_retrain_triggers_total{model_name="demo",outcome="accepted"} 1.0' in metrics
    assert (
        'coalmine_retrain_runs_total{model_name="demo",outcome="promoted-to-rollout"} 1.0'
        in metrics
    )


async def test_a_rejected_candidate_starts_no_rollout_and_is_told(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "reject")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        # It is not retrained in a loop: the cooldown holds.
        assert await alert(client, "reject") == {"suppressed": 1}
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    assert (run["outcome"], run["version"]) == ("rejected", None)
    assert "record" in run["steps"]
    assert "register" not in run["steps"]
    assert world.offers == []
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]
    assert triggers[0]["reason"].startswith("cooldown of 3600 s")


async def test_a_failure_is_told_with_its_cause(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "fail")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "failed"
    assert run["error"] == "ValueError: the data is upside down"
    assert run["attempts"] == 1  # it did not die: the same data would fail again
    assert [notice["outcome"] for notice in notices()] == ["FAILED"]


@pytest.mark.slow
async def test_a_step_that_fails_once_is_tried_again(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    service = make_service(pipeline="small_pipelines:pipeline")
    async with retrainer(service, state=state, world=world) as client:
        await alert(client, "flaky")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert run["outcome"] == "promoted-to-rollout"


@pytest.mark.parametrize(
    ("how", "limit"), [("hang", 4), pytest.param("stubborn", 30, marks=pytest.mark.slow)]
)
async def test_a_hanging_run_is_killed_at_its_limit_and_told(
    state: Path,
    world: World,
    notices: Callable[[], list[dict[str, Any]]],
    how: str,
    limit: int,
) -> None:
    """Also one that ignores SIGTERM and has children, one of them in a session of its own."""
    fill_log(state, since=ONSET)
    service = make_service(time_limit=f"{limit}s")
    async with retrainer(service, state=state, world=world) as client:
        await alert(client, how)
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        left = processes_of(run["id"])
    assert (run["outcome"], run["error"]) == ("timeout", f"killed at its time limit of {limit} s")
    assert [notice["outcome"] for notice in notices()] == ["timeout"]
    assert left == []
    if how == "stubborn":
        children = (state / "runs" / run["id"] / "children").read_text().split()
        assert len(children) == 2
        assert not any(_runs(int(child)) for child in children)
    assert world.offers == []


@pytest.mark.slow
async def test_a_run_whose_process_is_killed_starts_again(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "stumble")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["outcome"], run["attempts"], run["deaths"]) == ("promoted-to-rollout", 2, 1)
    assert len(world.offers) == 1
    assert [notice["outcome"] for notice in notices()] == ["SUCCEEDED"]


async def test_a_run_that_dies_too_often_has_failed_and_is_told(
    state: Path, world: World, notices: Callable[[], list[dict[str, Any]]]
) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "die")
        run = (await until(client, "/v1/runs", finished))["runs"][0]
    assert (run["outcome"], run["error"]) == ("failed", "its process died 2 times")
    assert [notice["outcome"] for notice in notices()] == ["failed"]


async def test_without_a_champion_a_first_model_is_made_once(
    tmp_path: Path, world: World, first_champion: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    service = make_service()
    async with retrainer(service, state=empty, world=world) as client:
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        assert (run["kind"], run["reason"]) == ("bootstrap", "there is no champion")
        assert run["outcome"] == "promoted-to-rollout"
    async with retrainer(service, state=empty, world=world) as client:  # its rollout is under way
        await asyncio.sleep(1.0)
        assert len((await client.get("/v1/runs")).json()["runs"]) == 1


def _runs(pid: int) -> bool:
    """Whether a process runs; what nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
