"""How far a run is, from the events that its steps write."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from coalmine.retraining._progress import progress_of

from .conftest import ONSET, World, alert, fill_log, make_service, retrainer, until


def started(name: str, time: float) -> dict[str, object]:
    return {"event": "step", "name": name, "state": "started", "time": time}


def ended(name: str, state: str = "done") -> dict[str, object]:
    return {"event": "step", "name": name, "state": state, "seconds": 1.0}


def trial(family: str, number: int) -> dict[str, object]:
    told = {"family": family, "trial": number, "of": 10, "best_loss": 0.5, "state": "complete"}
    return {"event": "progress", "step": "train", **told}


def test_steps_and_trials_so_far() -> None:
    events = [started("ingest", 100.0), ended("ingest"), started("train", 110.0)]
    assert asdict(progress_of(events, now=115.04)) == {
        "steps": {"train": 5.0}, "steps_done": 1, "searches": ()
    }  # fmt: skip
    events += [trial("lightgbm", 9), trial("lightgbm", 10), trial("mlp", 1)]
    searches = progress_of(events, now=200.0).searches
    assert [(s.family, s.done, s.total) for s in searches] == [("lightgbm", 10, 10), ("mlp", 1, 10)]
    events += [ended("train"), started("segments a", 300.0), started("segments b", 301.0)]
    found = progress_of([*events, ended("segments a", "failed")], now=299.0)
    assert (found.steps, found.steps_done, found.searches) == ({"segments b": 0.0}, 3, ())
    assert progress_of([], now=1.0).steps == {}


async def test_a_run_under_way_tells_its_step_and_its_deadline(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        await alert(client, "hang")
        shown = await until(
            client,
            "/v1/status",
            lambda s: bool(s["run"] and (s["run"]["progress"] or {}).get("steps")),
        )
        metrics = (await client.get("/metrics")).text
    assert set(shown["run"]["progress"]["steps"]) == {"work"}
    assert shown["run"]["started"] <= shown["now"]
    name = 'coalmine_retrain_run_deadline_timestamp_seconds{model_name="demo"}'
    (deadline,) = [line.split()[-1] for line in metrics.splitlines() if line.startswith(name)]
    assert float(deadline) >= shown["run"]["started"] + shown["time_limit"] - 1
