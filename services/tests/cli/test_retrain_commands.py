"""`coalmine retrain`: runs asked for, listed and explained, and the pipeline for a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coalmine import __file__ as coalmine_package

from .conftest import GOOD, Control


def test_a_run_is_started_and_listed(coalmine: Any, control: Control) -> None:
    control.answers = {"/retrainer/v1/runs": (201, {"id": "run-1"})}
    assert coalmine("retrain", "--reason", "new labels").out.startswith("run run-1")
    assert control.asked.pop()[2]["reason"] == "new labels"
    run = {"id": "run-1", "started": 1.0, "outcome": None, "version": None, "reason": "new labels"}
    control.answers = {"/retrainer/v1/runs": (200, {"runs": [run]})}
    assert coalmine("retrain", "runs").out.splitlines()[1].split() == [
        *("run-1", "running", "new", "labels")
    ]


def test_what_asked_for_runs_is_listed_with_what_came_of_it(
    coalmine: Any, control: Control
) -> None:
    run = {"id": "run-1", "outcome": "promoted-to-rollout", "verdict": "rolled_back"}
    asked = {
        "last_at": 1795255200.0,
        "source": "alert",
        "name": "CoalmineAccuracyLoss",
        "count": 7,
        "fate": "merged",
        "run": "run-1",
        "reason": "into run run-1",
    }
    control.answers = {
        "/retrainer/v1/triggers?limit=50": (200, {"triggers": [asked]}),
        "/retrainer/v1/triggers?fate=merged&limit=50": (200, {"triggers": [asked]}),
        "/retrainer/v1/runs": (200, {"runs": [run]}),
    }
    line = coalmine("retrain", "history").out.splitlines()[1]
    assert line.startswith("2026-11-21 10:00:00  alert  CoalmineAccuracyLoss  7      merged  run-1")
    assert "promoted-to-rollout, rolled back  into run run-1" in line
    (told,) = json.loads(coalmine("retrain", "history", "--fate", "merged", "--json").out)
    assert (told["count"], told["outcome"]) == (7, "promoted-to-rollout, rolled back")
    refused = coalmine("retrain", "history", "--fate", "lost")
    assert refused.err == "coalmine: --fate lost: allowed are accepted, merged, suppressed\n"


def test_an_open_breaker_is_shown_and_reset(coalmine: Any, control: Control) -> None:
    shown = {
        "run": None,
        "breaker": {"open": True, "failures": 3, "max_failures": 3, "last": "x", "run": "run-3"},
        "back_off": {"rejections": 0, "seconds": 0.0, "until": None},
        "cooldown_until": None,
        "runs_today": 3,
        "daily_budget": 4,
        "next_scheduled": 1795255200.0,
    }
    control.answers = {
        "/retrainer/v1/status": (200, shown),
        "/retrainer/v1/reset": (200, shown),
    }
    told = coalmine("retrain", "status").out
    assert "breaker   OPEN, a person is needed (coalmine retrain reset), 3 of 3 failures" in told
    assert "schedule  next at 2026-11-21 10:00:00 UTC\n" in told
    assert coalmine("retrain", "reset", "--reason", "mended").code == 0
    assert control.asked.pop()[2]["reason"] == "mended"


def test_a_long_step_shows_how_far_it_is(coalmine: Any, control: Control) -> None:
    search = {"family": "mlp", "done": 2, "total": 10, "best_loss": 0.123456}
    progress = {"steps": {"train": 41.6}, "steps_done": 3, "searches": [search]}
    run = {"id": "run-1", "state": "running", "started": 100.0, "waiting_for": "", "version": None}
    shown = {
        "now": 190.0,
        "time_limit": 3600.0,
        "run": {**run, "progress": progress},
        "breaker": {"open": False, "failures": 0, "max_failures": 3, "last": "", "run": ""},
        "back_off": {"rejections": 0, "seconds": 0.0, "until": None},
        "cooldown_until": None,
        "runs_today": 1,
        "daily_budget": 4,
        "next_scheduled": None,
    }
    control.answers = {"/retrainer/v1/status": (200, shown)}
    (line, *_) = coalmine("retrain", "status").out.splitlines()
    assert line == (
        "run       run-1 running for 90 s of at most 3600 s; 3 steps done, now train for 42 s "
        "(mlp 2 of 10 trials, best loss 0.1235)"
    )
    shown["run"] = {**run, "state": "waiting", "waiting_for": "20 labels", "progress": None}
    assert coalmine("retrain", "status").out.startswith("run       run-1 waiting for 20 labels\n")


@pytest.mark.slow
def test_the_pipeline_compiles(tmp_path: Path) -> None:
    file = Path(coalmine_package).with_name("apps") / "ev_battery" / "coalmine.yaml"
    command = (
        *(sys.executable, "-m", "coalmine.cli", "retrain"),
        *("--compile", "p.yaml", "--file", str(file)),
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = next(iter(yaml.safe_load_all((tmp_path / "p.yaml").read_text())))
    assert "pipelineInfo" in first


def test_compile_names_the_missing_section(coalmine: Any, tmp_path: Path) -> None:
    (tmp_path / "coalmine.yaml").write_text(GOOD)
    done = coalmine("retrain", "--compile", "p.yaml")
    assert done.code == 1
    assert "retraining: is missing" in done.err
