"""A transformer as a server of its own: the predictor's answers and absence, honestly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from coalmine.serving import StartupError
from coalmine.serving._transformer_main import options_of

from .alone import NAMES, ROWS, get, until, until_true, v2


@pytest.fixture(scope="module")
def predictor(start: Any, model_dir: Path) -> Any:
    return start(model_dir, "--version", "3", "--arm", "canary")


@pytest.fixture(scope="module", params=["http", "grpc"])
def pair(request: pytest.FixtureRequest, alone: Any, predictor: Any) -> Any:
    """A transformer whose predictor is asked over HTTP, or over gRPC."""
    return alone("Halved", "--predictor", f"{request.param}://127.0.0.1:{predictor.port}")


@pytest.fixture(scope="module")
def faulty(start: Any, alone: Any, predictor: Any, model_dir: Path) -> list[Any]:
    """One class in the predictor's process, and alone over REST, gRPC and V1."""
    address = f"127.0.0.1:{predictor.port}"
    v1 = ("--predictor", f"http://{address}", "--predictor-protocol", "v1")
    dotted = ("--transformer", "alone_examples:Faulty")
    return [
        start(model_dir, *dotted, PYTHONPATH=str(alone.directory)),
        alone("Faulty", "--predictor", f"http://{address}"),
        alone("Faulty", "--predictor", f"grpc://{address}"),
        alone("Faulty", *v1),
    ]


def test_every_protocol_of_its_own(pair: Any, truth: Any) -> None:
    labels, _ = truth(np.array(ROWS) / 2)
    names = [NAMES[label] for label in labels]
    answer = httpx.post(f"{pair.url}/v2/models/toy/infer", json=v2(id="mine"))
    assert answer.json() == {
        "id": "mine",
        "model_name": "toy",
        "model_version": "3",
        "outputs": [{"name": "name", "datatype": "BYTES", "shape": [2], "data": names}],
    }
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers.get_list("x-coalmine-arm") == ["canary"], "the predictor's, once"
    assert answer.headers.get_list("x-coalmine-version") == ["3"]
    v1 = httpx.post(f"{pair.url}/v1/models/toy:predict", json={"instances": ROWS})
    assert v1.json() == {"predictions": names}
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{pair.grpc_port}") as triton:
        tensor = triton_grpc.InferInput("double", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS, np.float32))
        found = triton.infer("toy", [tensor]).as_numpy("name")
    assert [name.decode() for name in found] == names


def test_the_schema_is_the_transformers(pair: Any) -> None:
    told = httpx.get(f"{pair.url}/v2/models/toy").json()
    assert told["versions"] == ["3"]
    assert told["inputs"] == [{"name": "double", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["outputs"] == [{"name": "name", "datatype": "BYTES", "shape": [-1]}]
    assert httpx.get(f"{pair.url}/v2/models/toy/versions/3/ready").status_code == 200


@pytest.mark.parametrize(
    ("rows", "status", "message"),
    [
        ([[13.0, 0, 0, 0]], 400, "double: thirteen is not a telemetry value"),
        ([[666.0, 0, 0, 0]], 500, "the model failed on this request"),
        ([[1.0, 2.0]], 400, "double"),
    ],
)
def test_a_clients_mistake_and_a_transformers_fault(
    pair: Any, rows: Any, status: int, message: str
) -> None:
    answer = httpx.post(f"{pair.url}/v2/models/toy/infer", json=v2(rows))
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        (0, 200, ""),
        (1, 500, "the transformer's preprocess: tensor 'features' is FP64, declared is FP32"),
        (2, 500, "the transformer's preprocess: tensor 'features' has 1 rows for 2"),
        (3, 500, "preprocess: returned the tensors feature; declared are features"),
        (4, 500, "preprocess: tensor 'features' is a list, not an array"),
        (5, 500, "preprocess: returned NoneType, not a dict of arrays by tensor name"),
        (6, 400, "these values make 'features', which the model takes, not finite"),
        (7, 400, "does not say why"),
        (8, 500, "the model failed on this request"),
        (9, 200, ""),
        (10, 200, ""),
    ],
)
def test_a_faulty_transformer_is_answered_the_same_wherever_it_runs(
    faulty: list[Any], case: int, status: int, message: str
) -> None:
    rows = np.array([[case, 1, 2, 3], [4, 5, 6, 7]], np.float32)
    found = []
    for served in faulty:
        tensor = triton_http.InferInput("x", [2, 4], "FP32")
        tensor.set_data_from_numpy(rows)
        wanted = [triton_http.InferRequestedOutput("best", binary_data=False)]
        body, length = triton_http.InferenceServerClient.generate_request_body(
            [tensor], outputs=wanted
        )
        binary = {"inference-header-content-length": str(length)}
        described = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": rows.tolist()}
        url = f"{served.url}/v2/models/toy/infer"
        for answer in (
            httpx.post(url, content=body, headers=binary),
            httpx.post(url, json={"inputs": [described]}),
        ):
            assert answer.status_code == status, f"{answer.text}\n{served.text()}"
            assert message in answer.text
            assert "secret" not in answer.text
            content = answer.json()
            found.append(content["outputs"][0]["data"] if status == 200 else content["error"])
    assert found == found[:1] * len(found)


@pytest.mark.parametrize(
    ("rows", "status", "message"),
    [
        (2, 200, ""),
        (3, 500, "postprocess: tensor 'best' is FP64, declared is FP32"),
        (4, 500, "the transformer's postprocess: tensor 'best' has 3 rows for 4"),
        (5, 500, "postprocess: returned the tensors worst; declared are best"),
        (6, 500, "the model failed on this request"),
    ],
)
def test_so_is_what_it_makes_of_the_answer(
    faulty: list[Any], rows: int, status: int, message: str
) -> None:
    for served in faulty:
        url = f"{served.url}/v1/models/toy:predict"
        answer = httpx.post(url, json={"instances": [[0.0, 1, 2, 3]] * rows})
        assert answer.status_code == status, answer.text
        assert message in answer.text
        assert "secret" not in answer.text


def test_an_empty_batch_needs_no_predictor(pair: Any) -> None:
    body = v2(np.empty((0, 4)).tolist())
    body["inputs"][0]["shape"] = [0, 4]
    outputs = httpx.post(f"{pair.url}/v2/models/toy/infer", json=body).json()["outputs"]
    assert [(item["shape"], item["data"]) for item in outputs] == [([0], [])]


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_predictor_that_comes_goes_and_comes_again(
    alone: Any, start: Any, model_dir: Path, kind: str
) -> None:
    predictor = start(model_dir, kind="uvicorn")
    port = predictor.port if kind == "http" else predictor.grpc_port
    predictor.stop()
    served = alone("Halved", "--predictor", f"{kind}://127.0.0.1:{port}", ready=False)
    absent = until(lambda: get(f"{served.url}/v2/models/toy/ready"), status=503)
    assert "cannot be reached" in absent.json()["error"]
    assert httpx.get(f"{served.url}/v2/health/live").status_code == 200
    assert httpx.get(f"{served.url}/v2/health/ready").status_code == 503
    answer = httpx.post(f"{served.url}/v2/models/toy/infer", json=v2())
    assert answer.status_code == 503

    again = ["--port", str(predictor.port), "--server", "uvicorn"]
    again += ["--grpc-port", str(predictor.grpc_port)]
    command = [sys.executable, "-m", "coalmine.serving", str(model_dir), *again]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        served.wait_ready()
        assert httpx.post(f"{served.url}/v2/models/toy/infer", json=v2()).status_code == 200
    finally:
        process.kill()
        process.wait()
    gone = httpx.post(f"{served.url}/v2/models/toy/infer", json=v2())
    assert gone.status_code in (502, 503), served.text()
    gone = httpx.post(f"{served.url}/v2/models/toy/infer", json=v2())
    assert gone.status_code == 503
    assert "cannot be reached" in gone.json()["error"]
    assert gone.headers["retry-after"] == "1"
    assert served.stop() == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unfit", "transformer gives features FP32 [-1, 9]; the model takes"),
        ("Failing", "the transformer fails on a sample: KeyError('features')"),
    ],
)
def test_a_transformer_that_cannot_work_is_never_ready(
    alone: Any, predictor: Any, name: str, message: str
) -> None:
    served = alone(name, "--predictor", predictor.url, ready=False)
    url = f"{served.url}/v2/models/toy/ready"
    answer = until(lambda: get(url), status=503, holding="transformer ")
    assert message in answer.json()["error"]


def test_several_workers_answer_as_one(alone: Any, predictor: Any, truth: Any) -> None:
    address = ("--predictor_host", f"127.0.0.1:{predictor.port}", "--predictor_protocol", "v2")
    served = alone("Halved", *address, "--workers", "2")
    until_true(lambda: "ready: 2 processes" in served.text())
    assert len(psutil.Process(served.process.pid).children()) == 2
    names = [NAMES[label] for label in truth(np.array(ROWS) / 2)[0]]
    for _ in range(20):  # connections of their own: both have some
        answer = httpx.post(f"{served.url}/v2/models/toy/infer", json=v2())
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == names
    text = httpx.get(f"{served.url}/metrics").text
    requests = [line for line in text.splitlines() if line.startswith("coalmine_requests_total{")]
    assert sum(float(line.split()[-1]) for line in requests) == 20, "of both"
    for step in ("preprocess", "predict", "postprocess"):  # KServe's own names
        assert f'request_{step}_seconds_count{{model_name="toy"}} 20.0' in text
    assert served.stop() == 0


def test_kserves_arguments() -> None:
    options = options_of(
        "my:Class --model_name m --predictor_host p.default --predictor_protocol grpc-v2 "
        "--http_port 8085 --grpc_port 8086 --predictor_use_ssl true "
        "--predictor_request_timeout_seconds 9 --predictor_request_retries 3".split()
    )
    assert (options.name, options.transformer, options.host) == ("m", "my:Class", "0.0.0.0")
    assert (options.port, options.grpc_port, options.server) == (8085, 8086, "uvicorn")
    found = options.predictor
    assert found is not None
    assert (found.host, found.protocol, found.ssl) == ("p.default", "grpc-v2", True)
    assert (found.timeout, found.retries) == (9, 3)
    assert type(options).from_json(options.to_json()) == options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--predictor localhost:8080", "must be http://HOST:PORT"),
        ("--predictor ftp://a", "must be http://HOST:PORT"),
        ("--predictor grpc://a:1/path", "gRPC has no path"),
        ("--predictor grpc://a:1 --predictor-protocol v2", "disagree"),
    ],
)
def test_a_wrong_address_is_said(arguments: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        options_of(["my:Class", "--name", "m", *arguments.split()])
