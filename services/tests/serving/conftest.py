"""Small real models, and real servers for them in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from coalmine.modeldir import MODEL_FILE, Column, ModelCard, Tensor, write_card
from coalmine.records import create_collector, open_log

from .alone import MODULE as ALONE

CLASSES = ("normal", "fault", "unknown")

#: A transformer whose raw input says how to treat it: sleep, refuse, break.
TRANSFORMERS = """
import time
import numpy as np
from coalmine.protocol import TensorSpec

class Moody:
    inputs = (TensorSpec("raw", "FP32", (-1, 4)), TensorSpec("wait", "FP32", (-1,)))

    def preprocess(self, tensors):
        raw = tensors["raw"]
        if (raw == 13).any():
            raise ValueError("thirteen is not a telemetry value")
        if (raw == 666).any():
            raise RuntimeError("secret detail")
        slow = (tensors["wait"] != 1).any()  # a warm-up of ones still costs more than a hand-over
        time.sleep(float(tensors["wait"].max(initial=0.0)) if slow else 0.001)
        return {"features": raw * 2}

    def postprocess(self, tensors):
        return {**tensors, "label": tensors["label"]}
"""


def build(path: Path, graph: Any) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def weights() -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of four features with a card; softmax of a linear map, so tests can check it."""
    directory = tmp_path_factory.mktemp("classifier")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "W"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "classifier",
        [info("features", TensorProto.FLOAT, ["n", 4])],
        [
            info("label", TensorProto.INT64, ["n"]),
            info("probabilities", TensorProto.FLOAT, ["n", 3]),
        ],
        [numpy_helper.from_array(weights(), "W")],
    )
    build(directory / MODEL_FILE, graph)
    features = tuple(Column(name=f"f{i}") for i in range(4))
    label = Column(name="label", type="categorical", categories=CLASSES)
    shares = tuple(Column(name=f"p_{name}") for name in CLASSES)
    card = ModelCard(
        name="toy",
        inputs=(Tensor(name="features", datatype="FP32", shape=(-1, 4), columns=features),),
        outputs=(
            Tensor(name="label", datatype="INT64", shape=(-1,), columns=(label,)),
            Tensor(name="probabilities", datatype="FP32", shape=(-1, 3), columns=shares),
        ),
    )
    write_card(directory, card)
    return directory


@pytest.fixture(scope="session")
def echo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare file, no card: text, half floats and booleans as they are, and a scalar-free batch."""
    info = helper.make_tensor_value_info
    kinds = {"text": TensorProto.STRING, "half": TensorProto.FLOAT16, "flag": TensorProto.BOOL}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        "echo",
        [info(name, kind, [None]) for name, kind in kinds.items()],
        [info(f"{name}_out", kind, [None]) for name, kind in kinds.items()],
    )
    return build(tmp_path_factory.mktemp("echo") / "echo.onnx", graph)


@pytest.fixture(scope="session")
def transformers_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the module `moody`, for a server's PYTHONPATH."""
    directory = tmp_path_factory.mktemp("transformers")
    (directory / "moody.py").write_text(TRANSFORMERS)
    return directory


def expected(rows: Any) -> tuple[list[int], np.ndarray[Any, Any]]:
    """What the classifier says, computed with numpy."""
    logits = np.asarray(rows, np.float32) @ weights()
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares.argmax(axis=1).tolist(), shares


@pytest.fixture(scope="session")
def truth() -> Callable[[Any], tuple[list[int], np.ndarray[Any, Any]]]:
    return expected


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Served:
    """A model server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    kind: str
    grpc_port: int
    arguments: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def text(self) -> str:
        return self.log.read_text()

    def wait_ready(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text()
            try:
                if httpx.get(f"{self.url}/v2/health/ready", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"not ready after {timeout} s: {self.text()}")

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 30.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout)


Start = Callable[..., Served]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, transformers_path: Path) -> Iterator[Start]:
    """Start servers; what is still running at the end is killed."""
    running: list[Served] = []

    def start_one(
        model: Path,
        *arguments: str,
        kind: str = "native",
        port: int | None = None,
        ready: bool = True,
        module: str = "coalmine.serving",
        **environment: str,
    ) -> Served:
        port = unused_port() if port is None else port
        grpc_port = port
        more = list(arguments)
        if kind == "uvicorn":
            grpc_port = unused_port()
            more += ["--grpc-port", str(grpc_port)]
        command = [sys.executable, "-m", module, str(model), "--port", str(port)]
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--server", kind, *more],
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONPATH": str(transformers_path), **environment},
            )
        served = Served(process, port, log, kind, grpc_port, more)
        running.append(served)
        if ready:
            served.wait_ready()
        return served

    yield start_one
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
        served.process.wait()


@pytest.fixture(scope="module")
def alone(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Start `coalmine transform` of a class above."""
    directory = tmp_path_factory.mktemp("module")
    (directory / "alone_examples.py").write_text(ALONE)

    def start_one(name: str, *arguments: str, **more: Any) -> Any:
        return start(
            Path(f"alone_examples:{name}"),
            *("--name", "toy", *arguments),
            module="coalmine.serving._transformer_main",
            PYTHONPATH=str(directory),
            **more,
        )

    start_one.directory = directory  # type: ignore[attr-defined]
    return start_one


@pytest.fixture(
    scope="module", params=["native", "uvicorn", pytest.param("pyvoy", marks=pytest.mark.slow)]
)
def toy(request: pytest.FixtureRequest, start: Start, model_dir: Path) -> Served:
    """The classifier, version 3, canary, behind each kind of server."""
    return start(model_dir, "--version", "3", "--arm", "canary", kind=request.param)


@pytest.fixture
async def client() -> Any:
    async with httpx.AsyncClient(timeout=20) as made:
        yield made


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Any]:
    """A real collector; gives (URL, log)."""
    log = open_log(f"sqlite:///{tmp_path}/records.db")
    config = uvicorn.Config(create_collector(log), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", log
    server.should_exit = True
    thread.join()
    log.close()


def _write_adder(path: Path, amount: float) -> None:
    """A network that adds a number, so that an answer tells which version gave it."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "amount"], ["y"])],
        "adder",
        [info("x", TensorProto.FLOAT, ["n", 1])],
        [info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([amount], np.float32), "amount")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


@pytest.fixture(scope="session")
def write_adder() -> Callable[..., None]:
    """Write a network that adds a number to a path."""
    return _write_adder
