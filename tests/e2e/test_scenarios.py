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

import httpx
import numpy as np
import orjson
import psutil
import pytest
import tritonclient.grpc as triton

from coalmine.apps.ev_battery import Fleet, FleetConfig

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
    [
        pytest.param("cold", 5, marks=pytest.mark.long),
        ("sensor-fault", 23),
        ("bad-candidate", 7),
        pytest.param("none", 101, marks=pytest.mark.long),
    ],
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


def part(state: Path, name: str) -> dict[str, Any]:
    """A running part, from the table that `coalmine status` reads; empty if there is none."""
    with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
        parts = json.loads((state / "up.json").read_text("utf-8"))["parts"]
        return next((each for each in parts if each["name"] == name), {})
    return {}


def check_same_answers(gateway: str) -> None:
    """The same windows over HTTP V1, HTTP V2 and gRPC V2, missing readings among them."""
    # Few enough: it is live traffic, and a broken sensor is what more missing readings would be.
    telemetry = Fleet(FleetConfig(seed=11, missing_share=0.05)).uploads(2)
    arrays = telemetry.raw
    assert any(np.isnan(array).any() for array in arrays.values())
    headers = {"x-vehicle-id": "7"}  # one vehicle stays on one arm
    rows = [{name: array[row] for name, array in arrays.items()} for row in range(len(telemetry))]
    options = orjson.OPT_SERIALIZE_NUMPY
    with httpx.Client(base_url=gateway, headers=headers, trust_env=False) as client:
        v1 = client.post(
            "/v1/models/ev-battery:predict",
            content=orjson.dumps({"instances": rows}, option=options),
        )
        tensors = [
            {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.ravel()}
            for name, array in arrays.items()
        ]
        v2 = client.post(
            "/v2/models/ev-battery/infer",
            content=orjson.dumps({"inputs": tensors}, option=options),
        )
    assert (v1.status_code, v2.status_code) == (200, 200), (v1.text[:300], v2.text[:300])
    inputs = [triton.InferInput(name, array.shape, "FP32") for name, array in arrays.items()]
    for tensor in inputs:
        tensor.set_data_from_numpy(arrays[tensor.name()])
    with triton.InferenceServerClient(gateway.removeprefix("http://")) as grpc:
        answer = grpc.infer("ev-battery", inputs, headers=headers)
    outputs = {tensor["name"]: tensor for tensor in v2.json()["outputs"]}
    predictions = v1.json()["predictions"]
    for name in ("label", "probabilities"):
        over_grpc = answer.as_numpy(name)
        over_v2 = np.array(outputs[name]["data"]).reshape(outputs[name]["shape"])
        over_v1 = np.array([prediction[name] for prediction in predictions])
        np.testing.assert_array_equal(over_v2.astype(over_grpc.dtype), over_grpc)
        np.testing.assert_array_equal(over_v1.astype(over_grpc.dtype), over_grpc)


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
            if name == "stable":
                check_same_answers(part(tmp_path / "state", "gateway")["url"])
            pid = part(tmp_path / "state", name).get("pid")
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
