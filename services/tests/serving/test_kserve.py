"""KServe: the same Predictor under the stock server, its clients against ours, its application."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

ROWS = [[0.1, -0.2, 0.3, 0.4], [1.0, 2.0, -3.0, 0.0]]

pytestmark = pytest.mark.slow  # each of these imports KServe's SDK: seconds of CPU

#: A stock server with our predictor in it.
STOCK = """
import sys
from kserve import ModelServer
from coalmine.serving import Predictor
path, http, grpc = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv = sys.argv[:1]
predictor = Predictor("toy", path, version="3")
predictor.load()
ModelServer(http_port=http, grpc_port=grpc).start([predictor])
"""

#: KServe's own clients; in a process of their own, since the SDK takes seconds to import.
CLIENTS = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
url, grpc = sys.argv[1], sys.argv[2]
rows = np.array(json.loads(sys.argv[3]), np.float32)

def request():
    tensor = InferInput("features", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest("toy", [tensor], request_id="mine")

async def main():
    global binary
    found = {}
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    found["v1"] = await v1.infer(url, {"instances": rows.tolist()}, model_name="toy")
    found["v1 ready"] = await v1.is_model_ready(url, "toy")
    v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
    client = InferenceGRPCClient(grpc)
    found["v2 ready"] = await v2.is_model_ready(url, "toy")
    found["server ready"] = await v2.is_server_ready(url)
    found["grpc ready"] = await client.is_model_ready("toy")
    for binary in (False, True):
        for name, answer in (
            ("v2", await v2.infer(url, request(), model_name="toy")),
            ("grpc", await client.infer(request())),
        ):
            label, shares = (answer.get_output_by_name(n) for n in ("label", "probabilities"))
            found[f"{name} {binary}"] = {
                "id": answer.id,
                "label": label.as_numpy().tolist(),
                "shares": shares.as_numpy().tolist(),
            }
    await client.close()
    await v1.close()
    await v2.close()
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def stock(model_dir: Path, tmp_path_factory: pytest.TempPathFactory, start: Any) -> Any:
    """KServe's stock ModelServer; gives an object like a server of ours."""
    served = start(model_dir, kind="uvicorn", ready=False)  # for its ports, and to be cleaned up
    served.process.kill()
    served.process.wait()
    command = [sys.executable, "-c", STOCK, str(model_dir), str(served.port), str(served.grpc_port)]
    with served.log.open("wb") as out:
        served.process = subprocess.Popen(command, stdout=out, stderr=out)
    served.wait_ready(timeout=60)
    return served


@pytest.fixture(scope="module", params=["ours", "stock"])
def either(request: pytest.FixtureRequest, start: Any, model_dir: Path) -> Any:
    if request.param == "stock":
        return request.getfixturevalue("stock")
    return start(model_dir, "--version", "3")


def v2(rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    described = {"name": "features", "datatype": "FP32", "shape": list(np.shape(rows))}
    return {"inputs": [{**described, "data": rows}], **more}


def test_the_same_answers_over_rest(either: Any, truth: Any) -> None:
    labels, shares = truth(ROWS)
    v1 = httpx.post(f"{either.url}/v1/models/toy:predict", json={"instances": ROWS}, timeout=20)
    assert [row["label"] for row in v1.json()["predictions"]] == labels
    outputs = httpx.post(f"{either.url}/v2/models/toy/infer", json=v2(id="mine")).json()
    assert (outputs["id"], outputs["model_name"], outputs["model_version"]) == ("mine", "toy", "3")
    label, probabilities = outputs["outputs"]
    assert label["data"] == labels
    np.testing.assert_allclose(probabilities["data"], shares.ravel(), rtol=1e-5)
    assert probabilities["shape"] == [2, 3]


def test_the_same_answers_in_binary(either: Any, truth: Any) -> None:
    labels, _ = truth(ROWS)
    raw = np.array(ROWS, np.float32).tobytes()
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 4]}
    head = json.dumps(
        {
            "id": "mine",
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "label", "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {
        "inference-header-content-length": str(len(head)),
        "content-type": "application/octet-stream",
    }
    answer = httpx.post(f"{either.url}/v2/models/toy/infer", content=head + raw, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["name"] == "label"
    assert np.frombuffer(answer.content[length:], np.int64).tolist() == labels


def test_the_same_answers_over_grpc(either: Any, truth: Any) -> None:
    labels, shares = truth(ROWS)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{either.grpc_port}") as triton:
        tensor = triton_grpc.InferInput("features", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS, np.float32))
        result = triton.infer("toy", [tensor], request_id="mine")
    assert result.get_response().id == "mine"
    assert result.as_numpy("label").tolist() == labels
    np.testing.assert_allclose(result.as_numpy("probabilities"), shares, rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/models/toy:predict", {"instances": [[1, 2]]}),
        ("/v1/models/toy:predict", {"instances": [["a", 2, 3, 4]]}),
        ("/v2/models/toy/infer", v2([[1.0, 2.0]], id="mine")),
    ],
)
def test_the_same_refusals(either: Any, path: str, content: Any) -> None:
    answer = httpx.post(either.url + path, json=content)
    assert answer.status_code == 400
    assert "features" in answer.json()["error"]


def test_kserves_clients(start: Any, model_dir: Path, truth: Any) -> None:
    served = start(model_dir, "--version", "3")
    labels, shares = truth(ROWS)
    command = [sys.executable, "-c", CLIENTS, served.url, f"127.0.0.1:{served.grpc_port}"]
    done = subprocess.run([*command, json.dumps(ROWS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row["label"] for row in found["v1"]["predictions"]] == labels
    for probe in ("v1 ready", "v2 ready", "grpc ready", "server ready"):
        assert found[probe] is True
    for way in ("v2 False", "v2 True", "grpc False", "grpc True"):
        assert found[way]["id"] == "mine"
        assert found[way]["label"] == labels
        np.testing.assert_allclose(found[way]["shares"], shares, rtol=1e-5)


def test_what_is_not_inference_is_kserves_own_application(start: Any, model_dir: Path) -> None:
    served = start(model_dir, "--version", "3")

    def ask(method: str, path: str) -> tuple[int, Any]:
        answer = httpx.request(
            method,
            served.url + path,
            json={} if method == "POST" else None,
            headers={"cookie": "secret"},
            timeout=60,
        )
        assert "secret" not in answer.text + str(answer.headers), "KServe's explain echoes headers"
        return answer.status_code, answer.json()

    assert ask("GET", "/v1/models") == (200, {"models": ["toy"]})
    assert ask("GET", "/v2/models") == (200, {"models": ["toy"]})
    assert ask("POST", "/v1/models/toy:explain")[0] == 501
    assert ask("POST", "/v2/repository/models/toy/unload")[0] == 200
    assert ask("GET", "/v2/models") == (200, {"models": []}), "the repository as it is now"
    assert ask("POST", "/v2/repository/models/toy/load") == (200, {"name": "toy", "load": True})
    assert ask("GET", "/v2/models") == (200, {"models": ["toy"]})
    assert ask("GET", "/v1/models/toy/nothing") == (
        404,
        {"error": "nothing is at /v1/models/toy/nothing"},
    )
    assert ask("GET", "/openapi.json")[0] == 200
