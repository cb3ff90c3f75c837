"""The whole loop, as a user runs it: `coalmine demo`, scenario by scenario, parts killed too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

REPORT_KEYS = {
    "scenario", "seed", "requests", "failed_requests", "records_emitted", "records_in_log",
    "records_dropped", "drift", "alerts", "retraining", "rollout", "versions", "accuracy", "stages",
    "ok",
}  # fmt: skip
LIMIT_S = 540


@contextmanager
def demo(directory: Path, scenario: str, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A demo under way; whatever happens, nothing of it is left when the block ends."""
    command = [
        sys.executable, "-m", "coalmine.cli", "demo", "--scenario", scenario, "--seed", str(seed),
        "--headless", "--report", str(directory / "report"), "--state", str(directory / "state"),
    ]  # fmt: skip
    with (directory / "output.jsonl").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            for child in family:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        if process.poll() is None:
            process.kill()
        process.wait()


def report_of(directory: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    code = process.wait(LIMIT_S)
    output = (directory / "output.jsonl").read_text("utf-8")
    assert code == 0, f"exit code {code}\n{output[-4000:]}"
    report: dict[str, Any] = json.loads((directory / "report" / "report.json").read_text("utf-8"))
    assert set(report) >= REPORT_KEYS
    assert report["ok"] is True
    assert report["failed_requests"] == 0
    assert report["records_dropped"] == 0
    assert report["records_in_log"] == report["records_emitted"] > 0
    assert (directory / "report" / "report.html").stat().st_size > 10_000
    return report


def rollouts_promoted(report: dict[str, Any]) -> bool:
    return bool(report["rollout"]["verdict"] == "non_inferior")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize(
    ("scenario", "seed"),
    [("cold", 5), ("sensor-fault", 23), ("bad-candidate", 7), ("none", 101)],
)
def test_scenario(tmp_path: Path, scenario: str, seed: int) -> None:
    with demo(tmp_path, scenario, seed) as process:
        report = report_of(tmp_path, process)
    assert report["scenario"] == scenario
    assert report["seed"] == seed
    kinds = {alert["alertname"] for alert in report["alerts"]}
    if scenario == "none":
        assert kinds == set()
    elif scenario == "cold":
        assert report["drift"]["detected"]
        assert abs(report["accuracy"]["after"] - report["accuracy"]["before"]) < 0.02
    elif scenario == "sensor-fault":
        assert "CoalmineDataQuality" in kinds
    else:
        assert report["rollout"]["verdict"] == "regression"


def part_pid(state: Path, name: str) -> int | None:
    """The pid of a running part, from the table that `coalmine status` reads."""
    with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
        parts = json.loads((state / "up.json").read_text("utf-8"))["parts"]
        for part in parts:
            if part["name"] == name and part.get("pid"):
                return int(part["pid"])
    return None


#: What the demo says, and which part is killed a moment after it.
MOMENTS = (
    ('"stage":"before"', 4.0, "stable"),
    ("CoalmineAccuracyLoss: accepted", 12.0, "control"),
    ("opened, shadow", 3.0, "shadow"),
    ("opened, step 1", 3.0, "gateway"),
    ("opened, step 2", 3.0, "canary"),
)


@pytest.mark.timeout(LIMIT_S + 60)
def test_chemistry_ends_well_although_every_part_is_killed(tmp_path: Path) -> None:
    """kill -9 of each part in turn, in the middle of what it does."""
    killed: list[str] = []
    with demo(tmp_path, "chemistry", 11) as process:
        for words, after_s, name in MOMENTS:
            while process.poll() is None:
                if words in (tmp_path / "output.jsonl").read_text("utf-8"):
                    break
                time.sleep(0.2)
            time.sleep(after_s)
            pid = part_pid(tmp_path / "state", name)
            if process.poll() is None and pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(name)
        report = report_of(tmp_path, process)
    assert killed == [name for _, _, name in MOMENTS]
    assert report["drift"]["detected"]
    assert rollouts_promoted(report)
    assert report["retraining"]["runs"] >= 1
    assert report["accuracy"]["before"] - report["accuracy"]["after"] < 0.02
    assert report["accuracy"]["during"] < report["accuracy"]["after"]
