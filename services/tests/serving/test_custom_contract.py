"""A user's Predictor, unchanged, under KServe's stock server and under ours: the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

pytestmark = pytest.mark.slow  # KServe's SDK is imported twice: seconds of CPU

MODULE = """
import numpy as np
from coalmine.protocol import TensorSpec
from coalmine.serving import Predictor

class Weighted(Predictor):
    inputs = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("who", "BYTES", (-1,)))
    outputs = (TensorSpec("sum", "FP32", (-1,)), TensorSpec("greeting", "BYTES", (-1,)))

    def load(self):
        self.weights = np.array([1, 10, 100], np.float32)
        return True

    def compute(self, tensors):
        x = tensors["x"]
        if (x == 13).any():
            raise ValueError("thirteen is not a measurement")
        if (x == 666).any():
            raise RuntimeError("secret detail")
        x *= self.weights  # its own copy, also when the request was binary
        wrong = {"sum": x.sum(axis=1).astype(np.float64)}
        if (x == 7).any():
            return wrong
        greeting = np.array(["hi " + who.decode() for who in tensors["who"]], object)
        return {"sum": x.sum(axis=1), "greeting": greeting}
"""

STOCK = """
import sys
from kserve import ModelServer
from weighted import Weighted
http, grpc = int(sys.argv[1]), int(sys.argv[2])
sys.argv = sys.argv[:1]
model = Weighted("weighted")
model.load()
ModelServer(http_port=http, grpc_port=grpc).start([model])
"""

X = [[1.0, 2.0, 3.0], [0.5, 0.0, 1.0]]
SUMS = [321.0, 100.5]
V1 = "/v1/models/weighted:predict"
V2 = "/v2/models/weighted/infer"


def tensors(x: Any = X, who: Any = ("Ann", "Bo"), **changes: Any) -> list[dict[str, Any]]:
    shape = list(np.shape(x))
    return [
        {"name": "x", "datatype": "FP32", "shape": shape, "data": np.ravel(x).tolist(), **changes},
        {"name": "who", "datatype": "BYTES", "shape": [len(who)], "data": list(who)},
    ]


def instances(x: Any = X) -> dict[str, Any]:
    people = ("Ann", "Bo")
    return {"instances": [{"x": row, "who": who} for row, who in zip(x, people, strict=True)]}


def with_value(value: float) -> list[list[float]]:
    return [[1.0, 2.0, 3.0], [value, 0.0, 1.0]]


@pytest.fixture(scope="module")
def pair(start: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both servers: name to an object with `url` and `grpc_port`."""
    directory = tmp_path_factory.mktemp("user")
    (directory / "weighted.py").write_text(MODULE)
    ours = start("weighted:Weighted", ready=False, PYTHONPATH=str(directory))
    stock = start("weighted:Weighted", kind="uvicorn", ready=False, PYTHONPATH=str(directory))
    stock.process.kill()  # it has given its ports, and will be cleaned up
    stock.process.wait()
    with stock.log.open("wb") as out:
        stock.process = subprocess.Popen(
            [sys.executable, "-c", STOCK, str(stock.port), str(stock.grpc_port)],
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(directory)},
        )
    for served in (ours, stock):
        served.wait_ready()
    return {"ours": ours, "stock": stock}


def both(pair: dict[str, Any], path: str, **request: Any) -> dict[str, httpx.Response]:
    return {
        name: httpx.post(served.url + path, timeout=30, **request) for name, served in pair.items()
    }


def test_v1(pair: dict[str, Any]) -> None:
    for answer in both(pair, V1, json=instances()).values():
        assert answer.json() == {
            "predictions": [
                {"sum": 321.0, "greeting": "hi Ann"},
                {"sum": 100.5, "greeting": "hi Bo"},
            ]
        }


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_v1_of_another_content_type(pair: dict[str, Any], kind: str) -> None:
    body = json.dumps(instances()).encode()  # as `curl -d` sends it
    for name, answer in both(pair, V1, content=body, headers={"content-type": kind}).items():
        assert answer.status_code == 200, (name, answer.text)
        assert [row["sum"] for row in answer.json()["predictions"]] == SUMS
    for name, answer in both(pair, V1, content=b"{no", headers={"content-type": kind}).items():
        assert answer.status_code == 400, (name, answer.text)


def test_v1_by_columns(pair: dict[str, Any]) -> None:
    for name, answer in both(pair, V1, json={"inputs": {"x": X, "who": ["Ann", "Bo"]}}).items():
        assert answer.status_code == 200, (name, answer.text)
        assert answer.json() == {"outputs": {"sum": SUMS, "greeting": ["hi Ann", "hi Bo"]}}


def test_v2_json(pair: dict[str, Any]) -> None:
    found = both(pair, V2, json={"id": "mine", "inputs": tensors()})
    for answer in found.values():
        content = answer.json()
        assert (content["id"], content["model_name"]) == ("mine", "weighted")
        outputs = {
            output["name"]: (output["datatype"], output["shape"], output["data"])
            for output in content["outputs"]
        }
        assert outputs == {
            "sum": ("FP32", [2], SUMS),
            "greeting": ("BYTES", [2], ["hi Ann", "hi Bo"]),
        }


def test_v2_binary(pair: dict[str, Any]) -> None:
    raw = np.array(X, np.float32).tobytes()
    x = {"name": "x", "datatype": "FP32", "shape": [2, 3]}
    head = json.dumps(
        {
            "inputs": [{**x, "parameters": {"binary_data_size": len(raw)}}, tensors()[1]],
            "outputs": [{"name": "sum", "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {
        "inference-header-content-length": str(len(head)),
        "content-type": "application/octet-stream",
    }
    for answer in both(pair, V2, content=head + raw, headers=headers).values():
        length = int(answer.headers["inference-header-content-length"])
        (described,) = json.loads(answer.content[:length])["outputs"]
        assert (described["name"], described["shape"]) == ("sum", [2])
        assert np.frombuffer(answer.content[length:], np.float32).tolist() == SUMS


def test_metadata(pair: dict[str, Any]) -> None:
    found = {
        name: httpx.get(f"{served.url}/v2/models/weighted", timeout=30).json()
        for name, served in pair.items()
    }
    assert found["ours"]["inputs"] == found["stock"]["inputs"]
    assert found["ours"]["outputs"] == found["stock"]["outputs"]


BAD_V1: dict[str, Any] = {
    "nothing": {},
    "a list": [[1, 2, 3]],
    "a number": 3,
    "no object at all": None,
    "not a list": {"instances": 3},
    "ragged": {"instances": [{"x": [1, 2], "who": "Ann"}]},
    "text for a number": {"instances": [{"x": ["a", 2, 3], "who": "Ann"}]},
    "a missing input": {"instances": [{"x": [1, 2, 3]}]},
    "an unknown input": {"instances": [{"x": [1, 2, 3], "who": "Ann", "why": 1}]},
    "refused by compute": instances(with_value(13)),
}


@pytest.mark.parametrize("content", BAD_V1.values(), ids=BAD_V1)
def test_bad_v1(pair: dict[str, Any], content: Any) -> None:
    for name, answer in both(pair, V1, json=content).items():
        assert answer.status_code == 400, (name, answer.text)
        assert isinstance(answer.json()["error"], str)


BAD_V2: dict[str, Any] = {
    "no inputs": [],
    "a missing input": tensors()[:1],
    "an unknown input": [*tensors(), {**tensors()[0], "name": "why"}],
    "an input twice": [tensors()[0], *tensors()],
    "another datatype": tensors(datatype="FP64"),
    "another rank": tensors(shape=[6]),
    "another size": tensors(shape=[3, 2]),
    "too few elements": tensors(shape=[4, 3]),
    "text for a number": tensors(data=["a"] * 6),
    "rows that disagree": tensors(who=("Ann",)),
    "negative sizes": tensors(shape=[-2, -3]),
    "no elements of a huge size": tensors(shape=[0, 2**62], data=[]),
    "a tensor in shared memory": [
        tensors()[0] | {"parameters": {"shared_memory_region": "r"}},
        tensors()[1],
    ],
    "refused by compute": tensors(with_value(13)),
}


@pytest.mark.parametrize("content", BAD_V2.values(), ids=BAD_V2)
def test_bad_v2(pair: dict[str, Any], content: Any) -> None:
    messages = set()
    for name, answer in both(pair, V2, json={"inputs": content}).items():
        assert answer.status_code == 400, (name, answer.text)
        messages.add(answer.json()["error"])
    assert len(messages) == 1


@pytest.mark.parametrize("value", [666, 7], ids=["compute raises", "compute returns FP64"])
def test_a_fault_of_the_model(pair: dict[str, Any], value: float) -> None:
    for answer in both(pair, V2, json={"inputs": tensors(with_value(value))}).values():
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
    assert "secret detail" in pair["ours"].text() or value == 7
    # One that fails does not spoil the next.
    for answer in both(pair, V2, json={"inputs": tensors()}).values():
        assert answer.status_code == 200


def ask_grpc(served: Any, inputs: list[Any], raw: list[bytes] | None = None) -> Any:
    request = pb.ModelInferRequest(model_name="weighted", id="mine", inputs=inputs)
    request.raw_input_contents.extend(raw or [])
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        return call(request, timeout=20)


def grpc_inputs(x: Any = X, *, datatype: str = "FP32", shape: Any = None) -> list[Any]:
    tensor = pb.ModelInferRequest.InferInputTensor
    return [
        tensor(
            name="x",
            datatype=datatype,
            shape=np.shape(x) if shape is None else shape,
            contents=pb.InferTensorContents(fp32_contents=np.ravel(x).tolist()),
        ),
        tensor(
            name="who",
            datatype="BYTES",
            shape=[2],
            contents=pb.InferTensorContents(bytes_contents=[b"Ann", b"Bo"]),
        ),
    ]


def test_grpc(pair: dict[str, Any]) -> None:
    for served in pair.values():
        answer = ask_grpc(served, grpc_inputs())
        assert (answer.id, answer.model_name) == ("mine", "weighted")
        found = dict(zip((output.name for output in answer.outputs), answer.outputs, strict=True))
        assert list(found["sum"].shape) == [2]
        if answer.raw_output_contents:
            sums = np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
        else:
            sums = list(found["sum"].contents.fp32_contents)
        assert sums == SUMS


BAD_GRPC: dict[str, Any] = {
    "no inputs": [],
    "a missing input": grpc_inputs()[:1],
    "another datatype": grpc_inputs(datatype="FP64"),
    "another size": grpc_inputs(shape=[3, 2]),
    "negative sizes": grpc_inputs(shape=[-2, -3]),
    "refused by compute": grpc_inputs(with_value(13)),
}


@pytest.mark.parametrize("inputs", BAD_GRPC.values(), ids=BAD_GRPC)
def test_bad_grpc(pair: dict[str, Any], inputs: Any) -> None:
    for name, served in pair.items():
        with pytest.raises(grpc.RpcError) as caught:
            ask_grpc(served, inputs)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, (name, caught.value)


PICKLED = """
import asyncio, pickle
from weighted import Weighted
model = Weighted("weighted")
model.load()
twin = pickle.loads(pickle.dumps(model))
body = {"instances": [{"x": [1, 2, 3], "who": "Ann"}]}
for each in (model, twin):
    assert each.ready
    assert asyncio.run(each.predict(body))["predictions"][0]["sum"] == 321.0
"""


def test_it_can_be_sent_to_kserves_worker_processes(tmp_path: Path) -> None:
    (tmp_path / "weighted.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PICKLED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
