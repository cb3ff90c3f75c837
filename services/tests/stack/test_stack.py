"""`coalmine up` with all its parts: a model answers, parts are killed, everything is stopped.

The model is two features wide and right by construction; it comes from `model.uri`, so that nothing
is trained here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from coalmine.modeldir import MODEL_FILE, Column, ModelCard, Tensor, write_card
from coalmine.observability import rules_file
from coalmine.stack import Running, StackError, read_running

if TYPE_CHECKING:
    from coalmine.stack import Ports

pytestmark = pytest.mark.slow

SERVICE = """\
name: tiny
model: {{uri: 'file:{model}'}}
rollout:
  shadow: null
  steps: [{{weight: 50, min_time: 1s}}]
"""


def write_model(directory: Path) -> Path:
    """label = feature a > 0, as a network."""
    directory.mkdir()
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [-1.0, 1.0, 0.0, 0.0])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, directory / MODEL_FILE)
    features = (Column(name="a"), Column(name="b"))
    label = Column(name="label", type="categorical", categories=("no", "yes"))
    probabilities = (Column(name="p_no"), Column(name="p_yes"))
    card = ModelCard(
        name="tiny",
        inputs=(Tensor(name="features", datatype="FP32", shape=(-1, 2), columns=features),),
        outputs=(
            Tensor(name="label", datatype="INT64", shape=(-1,), columns=(label,)),
            Tensor(name="probabilities", datatype="FP32", shape=(-1, 2), columns=probabilities),
        ),
        metrics={"accuracy": 1.0},
    )
    write_card(directory, card)
    return directory


@dataclass
class Up:
    file: Path
    state: Path
    ports: Ports
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def control(self) -> str:
        return f"http://127.0.0.1:{self.ports.control}"

    def running(self) -> Running:
        return read_running(self.state)

    def pid(self, part: str) -> int | None:
        return next((each.pid for each in self.running().parts if each.name == part), None)

    def predict(self, value: float, request_id: str) -> dict[str, Any]:
        body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 2],
                            "data": [value, 0.0]}]}  # fmt: skip
        response = httpx.post(
            f"{self.url}/v2/models/tiny/infer",
            json=body,
            headers={"x-request-id": request_id},
            timeout=30,
            trust_env=False,
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def rows(self) -> int:
        stats = httpx.get(f"{self.control}/collector/v1/records/stats", trust_env=False).json()
        return int(stats["rows"])


def until(condition: Callable[[], bool], *, seconds: float = 60.0, what: str = "") -> None:
    give_up = time.monotonic() + seconds
    while not holds(condition):
        assert time.monotonic() < give_up, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (AssertionError, httpx.HTTPError, StackError, KeyError):
        return False


def start(file: Path, state: Path, ports: Ports) -> Up:
    command = (
        *(sys.executable, "-m", "coalmine.cli", "up", str(file)),
        *("--state", str(state), "--port", str(ports.gateway)),
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    up = Up(file, state, ports, process)
    try:
        until(lambda: httpx.get(f"{up.control}/healthz", trust_env=False).is_success)
        until(lambda: up.predict(1.0, "warm-up") is not None)
    except AssertionError:
        process.kill()
        told = process.communicate()[0]
        raise AssertionError(f"no answer: {told}\n{logs(state)}") from None
    return up


def logs(state: Path) -> str:
    return "\n".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in state.glob("logs/*.log"))


def stop(up: Up) -> None:
    """As Ctrl-C does; everything is gone within 5 s."""
    pids = [part.pid for part in up.running().parts if part.pid is not None]
    everything = [psutil.Process(pid) for pid in pids]
    everything += [child for each in everything for child in each.children(recursive=True)]
    up.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    up.process.communicate(timeout=10)
    assert time.monotonic() - started < 5.0
    assert up.process.returncode == 0
    _, alive = psutil.wait_procs(everything, timeout=0.5)
    assert alive == []


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, free_ports: Ports) -> Iterator[list[Up]]:
    directory = tmp_path_factory.mktemp("up")
    file = directory / "coalmine.yaml"
    file.write_text(SERVICE.format(model=write_model(directory / "model")))
    started = [start(file, directory / "state", free_ports)]
    yield started
    if started[-1].process.poll() is None:
        stop(started[-1])


@pytest.fixture
def up(started: list[Up]) -> Up:
    """The running stack; started again, on the same state, after a test that stopped it."""
    if started[-1].process.poll() is not None:
        started.append(start(started[-1].file, started[-1].state, started[-1].ports))
    return started[-1]


def test_a_model_is_served_recorded_and_labelled(up: Up, tmp_path: Path) -> None:
    answer = up.predict(3.0, "r-1")
    assert answer["id"] == "r-1"
    assert {out["name"]: out["data"] for out in answer["outputs"]}["label"] == [1]
    before = up.rows()
    up.predict(-3.0, "r-2")
    until(lambda: up.rows() > before, what="the record in the log")
    labels = tmp_path / "labels.csv"
    labels.write_text("request_id,label\nr-1,yes\nr-2,no\n")
    told = cli("label", str(labels), "--state", str(up.state))
    assert "2 accepted" in told.stdout, told.stderr
    status = cli("status", "--state", str(up.state))
    assert "stable 100 %" in status.stdout, status.stdout + status.stderr
    assert "promoted" in status.stdout
    assert up.state.joinpath("envoy", "routes", "rds.yaml").exists()


def test_a_second_up_says_what_runs(up: Up) -> None:
    done = cli("up", str(up.file), "--state", str(up.state), "--port", str(up.ports.gateway + 8))
    assert done.returncode == 1
    assert f"pid {up.process.pid}" in done.stderr
    assert up.url in done.stdout
    other = cli("up", str(up.file), "--state", str(up.state) + "-2", "--port",
                str(up.ports.gateway))  # fmt: skip
    assert other.returncode == 1
    assert f"{up.ports.gateway} (gateway)" in other.stderr
    assert "--port" in other.stderr


def test_rules_and_dashboards_use_metrics_that_are_exported(up: Up) -> None:
    charts = Path(__file__).parents[3] / "charts" / "dashboards"
    text = rules_file().read_text() + "".join(file.read_text() for file in charts.glob("*.json"))
    used = set(re.findall(r"coalmine_[a-z_]+", json.dumps(text)))
    exported = ""
    for app in httpx.get(f"{up.control}/healthz", trust_env=False).json()["services"]:
        page = httpx.get(f"{up.control}/{app}/metrics", trust_env=False)
        assert page.status_code == 200, app
        exported += page.text
    stable = f"http://127.0.0.1:{up.ports.arms['stable']}"
    exported += httpx.get(f"{stable}/metrics", trust_env=False).text
    source = Path(rules_file()).parents[4]
    # Some are shown only once there is something to show: then their name is in the source.
    named = "".join(
        path.read_text() for member in ("services", "monitors")
        for path in (source / member / "src").rglob("*.py")
    )  # fmt: skip
    unknown = {name for name in used if name not in exported and not in_source(name, named)}
    assert unknown == set()


def test_a_killed_part_is_back_and_no_request_fails(up: Up) -> None:
    for part in ("control", "stable"):
        pid = up.pid(part)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for number in range(10):
            up.predict(1.0, f"{part}-{number}")
        until(lambda part=part, pid=pid: up.pid(part) not in (None, pid), what=f"{part} again")
    gateway = up.pid("gateway")
    assert gateway is not None
    os.kill(gateway, signal.SIGKILL)
    until(lambda: up.predict(1.0, "after") is not None, seconds=5, what="the gateway again")
    emitted = [f"{part}-{number}" for part in ("control", "stable") for number in range(10)]
    until(lambda: up.rows() >= len(emitted), what="every record in the log")
    restarts = {part.name: part.restarts for part in up.running().parts}
    assert all(restarts[part] >= 1 for part in ("control", "stable", "gateway"))


def test_everything_stops_and_goes_on_where_it_was(up: Up, started: list[Up]) -> None:
    until(lambda: up.rows() > 0, what="a record")
    rows = up.rows()
    stop(up)
    with pytest.raises(StackError):
        up.running()
    started.append(start(up.file, up.state, up.ports))
    until(lambda: up.rows() >= rows, what="the records of before")
    rollouts = httpx.get(f"{up.control}/rollout/v1/rollouts", trust_env=False).json()
    assert len(rollouts["rollouts"]) == 1, "the same model is offered once"


def test_a_killed_supervisor_leaves_nothing_behind(up: Up) -> None:
    pids = [part.pid for part in up.running().parts if part.pid is not None]
    assert len(pids) >= 3
    up.process.kill()
    up.process.communicate()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), seconds=5, what="their end")


def test_a_part_that_cannot_start_is_named_with_its_reason(up: Up) -> None:
    stop(up)
    (up.state / "rollout.db").rename(up.state / "rollout.kept")
    (up.state / "rollout.db").mkdir()
    try:
        done = cli("up", str(up.file), "--state", str(up.state), "--port", str(up.ports.gateway))
    finally:
        (up.state / "rollout.db").rmdir()
        (up.state / "rollout.kept").rename(up.state / "rollout.db")
    assert done.returncode == 1
    assert "control does not come up: rollout cannot start: " in done.stderr
    assert str(up.state / "logs" / "control.log") in done.stderr


def in_source(name: str, named: str) -> bool:
    return f'"{name}"' in named or f'"{name.removesuffix("_total")}"' in named


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "coalmine.cli", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
