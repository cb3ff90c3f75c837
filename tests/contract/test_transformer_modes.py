"""One transformer class, four ways to run it, the same answers to the bit.

Collocated in the predictor's process, as a service of its own over REST and over gRPC, and under
KServe's own server with several workers: real servers all, in processes of their own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from onnx import TensorProto, helper, numpy_helper

from coalmine.modeldir import MODEL_FILE, TRANSFORMER_FILE
from coalmine.protocol import Array, Tensors, TensorSpec, datatype_of, to_raw
from coalmine_transformers import Transformer
from coalmine_transformers.battery import BatteryTransformer
from coalmine_transformers.tabular import Categorical, Numeric, TabularTransformer

KSERVE = """
import sys
import kserve
from coalmine.serving import KServeTransformer

if __name__ == "__main__":
    dotted, artefact = sys.argv[1:3]
    transformer = KServeTransformer(kserve.model_server.args.model_name, dotted, artefact=artefact)
    transformer.load()
    kserve.ModelServer().start([transformer])
"""

BATTERY = "coalmine_transformers.battery:BatteryTransformer"
TABULAR = "coalmine_transformers.tabular:TabularTransformer"


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, path: str = "/v2/health/ready", timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(self.url + path, timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


Launch = Callable[..., Server]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    running: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], *, port: int, grpc_port: int | None = None) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True, env={**os.environ}
            )
        running.append(process)
        return Server(process, log, port, grpc_port or port)

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # KServe's workers too
        process.wait()


def network(directory: Path, width: int) -> Path:
    """A classifier of `width` features, NaN taken for zero, so that what is missing shows."""
    rng = np.random.default_rng(width)
    weights = rng.normal(0, 0.5, (width, 3)).astype(np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["features"], ["gap"]),
            helper.make_node("Where", ["gap", "zero", "features"], ["whole"]),
            helper.make_node("Softsign", ["whole"], ["bounded"]),
            helper.make_node("MatMul", ["bounded", "W"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "classifier",
        [info("features", TensorProto.FLOAT, ["n", width])],
        [
            info("label", TensorProto.INT64, ["n"]),
            info("probabilities", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            numpy_helper.from_array(weights, "W"),
            numpy_helper.from_array(np.zeros((), np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    (directory / MODEL_FILE).write_bytes(model.SerializeToString())
    return directory


@dataclass(frozen=True)
class Case:
    name: str
    dotted: str
    directory: Path
    transformer: Transformer
    tensors: Tensors


def battery(directory: Path) -> Case:
    rng = np.random.default_rng(1)
    tensors = {
        spec.name: rng.normal(20, 9, (3, *spec.shape[1:])).astype(np.float32)
        for spec in BatteryTransformer.inputs
    }
    tensors["current"][1, 3] = np.nan
    network(directory, 23)
    return Case("battery", BATTERY, directory, BatteryTransformer(), tensors)


def tabular(directory: Path) -> Case:
    rng = np.random.default_rng(2)
    data = {
        "age": np.where(rng.random(60) < 0.2, np.nan, rng.normal(40, 9, 60)),
        "visits": rng.integers(0, 9, 60),
        "city": rng.choice(["Bern", "Rome", "Oslo"], 60),
    }
    columns = [
        Numeric("age", indicator=True),
        Numeric("visits", scale="robust"),
        Categorical("city", fill="most_frequent", unknown="own"),
    ]
    fitted = TabularTransformer.fit(columns, data)
    fitted.save(directory / TRANSFORMER_FILE)
    network(directory, len(fitted.feature_names))
    tensors = {
        "age": np.array([31.5, np.nan, 70.25]),
        "visits": np.array([1, 2, 8]),
        "city": np.array([b"Rome", b"", b"Paris"], dtype=np.object_),
    }
    return Case("tabular", TABULAR, directory, fitted, tensors)


@pytest.fixture(scope="module", params=[battery, tabular], ids=lambda made: made.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made: Case = request.param(tmp_path_factory.mktemp(request.param.__name__))
    return made


def serve(launch: Launch, case: Case, *more: str) -> Server:
    port = unused_port()
    command = [sys.executable, "-m", "coalmine.serving", str(case.directory), "--name", case.name]
    server = launch([*command, "--port", str(port), "--version", "7", *more], port=port)
    server.wait_ready()
    return server


def alone(launch: Launch, case: Case, url: str, protocol: str) -> Server:
    port = unused_port()
    command = [sys.executable, "-m", "coalmine.serving._transformer_main", case.dotted]
    command += ["--name", case.name, "--port", str(port), "--predictor", url]
    command += ["--predictor-protocol", protocol, "--artefact", str(case.directory)]
    server = launch(command, port=port)
    server.wait_ready()
    return server


@pytest.fixture(scope="module")
def predictor(launch: Launch, case: Case) -> Server:
    return serve(launch, case)


@pytest.fixture(scope="module")
def reference(launch: Launch, case: Case) -> Server:
    return serve(launch, case, "--transformer", case.dotted)


#: Each of KServe's imports its SDK, in three processes: seconds of CPU.
WAYS = [
    "http v2",
    "grpc grpc-v2",
    "http v1",
    pytest.param("kserve v1", marks=pytest.mark.slow),
    pytest.param("kserve v2", marks=pytest.mark.slow),
    pytest.param("kserve grpc-v2", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.replace(" ", "-"))
def other(
    request: pytest.FixtureRequest,
    launch: Launch,
    case: Case,
    predictor: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    """The transformer apart from its predictor, the way the parameter says."""
    kind, protocol = request.param.split()
    port, grpc_port = unused_port(), unused_port()
    if kind != "kserve":
        return alone(launch, case, f"{kind}://127.0.0.1:{predictor.port}", protocol)
    script = tmp_path_factory.mktemp("kserve") / "serve.py"
    script.write_text(KSERVE)
    command = [sys.executable, str(script), case.dotted, str(case.directory)]
    command += ["--model_name", case.name, "--http_port", str(port), "--grpc_port", str(grpc_port)]
    command += ["--predictor_host", f"127.0.0.1:{predictor.port}", "--workers", "2"]
    server = launch([*command, "--predictor_protocol", protocol], port=port, grpc_port=grpc_port)
    server.wait_ready(f"/v2/models/{case.name}/ready")
    return server


def instances(case: Case) -> list[dict[str, Any]]:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, np.ndarray):
            return [plain(item) for item in value]
        return None if np.isnan(value) else value.item()

    rows = len(next(iter(case.tensors.values())))
    return [
        {name: plain(array[row]) for name, array in case.tensors.items()} for row in range(rows)
    ]


def v1(server: Server, case: Case, **headers: str) -> httpx.Response:
    content = {"instances": instances(case)}
    return httpx.post(
        f"{server.url}/v1/models/{case.name}:predict", json=content, headers=headers, timeout=20
    )


def binary(server: Server, case: Case, **headers: str) -> dict[str, bytes]:
    inputs, blobs = [], []
    for name, array in case.tensors.items():
        blobs.append(to_raw(array))
        described = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}
        inputs.append({**described, "parameters": {"binary_data_size": len(blobs[-1])}})
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    answer = httpx.post(
        f"{server.url}/v2/models/{case.name}/infer",
        content=b"".join((head, *blobs)),
        headers={
            "inference-header-content-length": str(len(head)),
            "content-type": "application/octet-stream",
            **headers,
        },
        timeout=20,
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    rest = answer.content[length:]
    found: dict[str, bytes] = {}
    for item in json.loads(answer.content[:length])["outputs"]:
        size = item["parameters"]["binary_data_size"]
        found[item["name"]], rest = rest[:size], rest[size:]
    return found


def grpc(server: Server, case: Case) -> dict[str, bytes]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        tensors = []
        for name, array in case.tensors.items():
            tensors.append(triton_grpc.InferInput(name, list(array.shape), datatype_of(array)))
            tensors[-1].set_data_from_numpy(array)
        answer = client.infer(case.name, tensors)
        return {name: answer.as_numpy(name).tobytes() for name in ("label", "probabilities")}


def as_arrays(answer: httpx.Response) -> tuple[Array, Array]:
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    shares = np.array([row["probabilities"] for row in rows], np.float32)
    return np.array([row["label"] for row in rows]), shares


def test_the_answers_are_the_same_to_the_bit(reference: Server, other: Server, case: Case) -> None:
    expected = binary(reference, case)
    assert set(expected) == {"label", "probabilities"}
    assert len(set(np.frombuffer(expected["probabilities"], np.float32).tolist())) >= 8
    for _ in range(4):  # whichever worker answers
        assert binary(other, case) == expected
    assert grpc(reference, case) == expected
    assert grpc(other, case) == expected
    for found, wanted in zip(
        as_arrays(v1(other, case)), as_arrays(v1(reference, case)), strict=True
    ):
        assert found.tobytes() == wanted.tobytes()


def test_a_clients_mistake_is_one_everywhere(reference: Server, other: Server, case: Case) -> None:
    rows = instances(case)
    rows[1]["soc" if case.name == "battery" else "visits"] = "many"
    for server in (reference, other):
        answer = httpx.post(
            f"{server.url}/v1/models/{case.name}:predict", json={"instances": rows}, timeout=20
        )
        assert answer.status_code == 400, answer.text
        assert "cannot hold a string" in answer.json()["error"]


def metadata(server: Server, case: Case) -> Any:
    for _ in range(50):  # a worker of KServe's says 503 until it has asked the predictor
        answer = httpx.get(f"{server.url}/v2/models/{case.name}", timeout=10)
        if answer.status_code != 503:
            break
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_same_schema_is_told(reference: Server, other: Server, case: Case) -> None:
    told = [metadata(server, case) for server in (reference, other)]
    for key in ("inputs", "outputs"):
        assert told[0][key] == told[1][key]
    assert [
        TensorSpec(item["name"], item["datatype"], tuple(item["shape"]))
        for item in told[1]["inputs"]
    ] == list(case.transformer.inputs)
