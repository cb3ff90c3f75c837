"""A transformer as a server of its own: the predictor's answers, errors and absence, honestly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import uvicorn

from coalmine.serving import StartupError
from coalmine.serving._transformer_main import options_of

MODULE = """
import numpy as np
from coalmine.protocol import TensorSpec

class Halved:
    inputs = (TensorSpec("double", "FP32", (-1, 4)),)
    outputs = (TensorSpec("name", "BYTES", (-1,)),)
    names = np.array([b"normal", b"fault", b"unknown"], dtype=object)

    def preprocess(self, tensors):
        values = tensors["double"]
        if (values == 13).any():
            raise ValueError("double: thirteen is not a telemetry value")
        if (values == 666).any():
            raise RuntimeError("secret detail")
        return {"features": values / 2}

    def postprocess(self, tensors):
        return {"name": self.names[tensors["label"]]}

class Unfit(Halved):
    model_inputs = (TensorSpec("features", "FP32", (-1, 9)),)

class Declared(Halved):
    model_inputs = (TensorSpec("features", "FP32", (-1, 4)),)
    model_outputs = (TensorSpec("label", "INT64", (-1,)),)
"""
NAMES = ["normal", "fault", "unknown"]
ROWS = [[0.2, -0.4, 0.6, 0.8], [2.0, 4.0, -6.0, 0.0]]


@pytest.fixture(scope="module")
def alone(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Start `coalmine transform` of a class above."""
    directory = tmp_path_factory.mktemp("module")
    (directory / "alone_examples.py").write_text(MODULE)

    def start_one(name: str, *arguments: str, **more: Any) -> Any:
        return start(
            Path(f"alone_examples:{name}"),
            *("--name", "toy", *arguments),
            module="coalmine.serving._transformer_main",
            PYTHONPATH=str(directory),
            **more,
        )

    return start_one


@pytest.fixture(scope="module")
def predictor(start: Any, model_dir: Path) -> Any:
    return start(model_dir, "--version", "3", "--arm", "canary")


@pytest.fixture(scope="module", params=["http", "grpc"])
def pair(request: pytest.FixtureRequest, alone: Any, predictor: Any) -> Any:
    """A transformer whose predictor is asked over HTTP, or over gRPC."""
    return alone("Halved", "--predictor", f"{request.param}://127.0.0.1:{predictor.port}")


def v2(rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    described = {"name": "double", "datatype": "FP32", "shape": list(np.shape(rows))}
    return {"inputs": [{**described, "data": rows}], **more}


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
    absent = until(lambda: _get(f"{served.url}/v2/models/toy/ready"), status=503)
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


def test_a_transformer_that_does_not_fit_is_never_ready(alone: Any, predictor: Any) -> None:
    served = alone("Unfit", "--predictor", predictor.url, ready=False)
    answer = until(lambda: _get(f"{served.url}/v2/models/toy/ready"), status=503)
    answer = until(
        lambda: _get(f"{served.url}/v2/models/toy/ready"), status=503, holding="the model takes"
    )
    assert "transformer gives features FP32 [-1, 9]" in answer.json()["error"]


class Upstream:
    """A predictor made of answers: it keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[Any] = []
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.delay = 0.0
        self.metadata: Any = {
            "name": "toy",
            "versions": ["9"],
            "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, headers, content = 200, {}, self.metadata
        if scope["path"] == "/v2":
            content = {"extensions": []}
        if scope["method"] == "POST":
            self.seen.append({k.decode(): v.decode() for k, v in scope["headers"]})
            self.paths.append(scope["path"])
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            self.bodies.append(json.loads(body))
            await asyncio.sleep(self.delay)
            status, headers, content = self.answers.pop(0)
        elif content is None:
            status = 404
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": body})


GOOD = {"outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[Upstream, int]]:
    app = Upstream()
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until_true(lambda: server.started)
    yield app, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def fronted(alone: Any, upstream: tuple[Upstream, int]) -> Any:
    options = ("--predictor-retries", "2", "--predictor-timeout", "1")
    return alone("Halved", "--predictor", f"http://127.0.0.1:{upstream[1]}", *options)


def ask(served: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{served.url}/v2/models/toy/infer", json=v2(), headers=headers, timeout=20)


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_what_is_forwarded_and_what_is_not(fronted: Any, upstream: tuple[Upstream, int]) -> None:
    app, _ = upstream
    identity = {"x-coalmine-arm": "shadow", "x-coalmine-version": "v9"}
    app.answers = [(200, identity, GOOD)] * 3
    passed = {"traceparent": TRACE, "tracestate": "a=b", "authorization": "Bearer x"}
    answer = ask(fronted, **passed, cookie="secret=1", **{"x-mine": "1"})
    assert answer.json()["outputs"][0]["data"] == ["normal", "fault"]
    assert answer.headers["x-coalmine-arm"] == "shadow"
    assert answer.headers["x-coalmine-version"] == "v9"
    seen = app.seen[-1]
    assert passed.items() <= seen.items()
    assert seen["x-request-id"] == answer.headers["x-request-id"] == TRACE.split("-")[1]
    assert not {"cookie", "x-mine"} & seen.keys()
    answer = ask(fronted)
    assert app.seen[-1]["x-request-id"] == answer.headers["x-request-id"], "one made here"
    answer = ask(fronted, **{"x-request-id": "r1"})
    assert app.seen[-1]["x-request-id"] == answer.headers["x-request-id"] == "r1"


def test_a_span_of_its_own_is_the_predictors_parent(
    alone: Any, upstream: tuple[Upstream, int]
) -> None:
    app, port = upstream
    address = f"http://127.0.0.1:{port}"
    served = alone("Halved", "--predictor", address, OTEL_TRACES_EXPORTER="console")
    app.answers = [(200, {}, GOOD)]
    ask(served, traceparent=TRACE)
    _, trace, span, _ = app.seen[-1]["traceparent"].split("-")
    assert trace == TRACE.split("-")[1]
    assert span != TRACE.split("-")[2]
    assert app.seen[-1]["x-request-id"] == trace


@pytest.mark.parametrize(
    ("status", "content", "ours", "message"),
    [
        (400, {"error": "features: no"}, 400, "features: no"),
        (422, {"detail": "features: no"}, 400, "features: no"),
        (404, {"error": "unknown"}, 503, "does not know the model"),
        (413, {"error": "too much"}, 413, "too much"),
        (429, {"error": "busy"}, 429, "busy"),
        (500, {"error": "ValueError: secret"}, 500, "the model failed on this request"),
        (501, b"", 502, "answered 501"),
        (302, b"", 502, "answered 302"),
        (504, b"", 504, "in time"),
        (200, b"{", 502, "cannot be read"),
        (200, {"outputs": []}, 502, "did not answer 'label'"),
        (200, {"outputs": [{**GOOD["outputs"][0], "data": [0]}]}, 502, "cannot be read"),
        (200, {"outputs": [{**GOOD["outputs"][0], "datatype": "INT32"}]}, 502, "int32"),
        (
            200,
            {"outputs": [{**GOOD["outputs"][0], "shape": [3], "data": [0, 1, 2]}]},
            502,
            "of shape [3], not INT64 of [2]",
        ),
    ],
)
def test_the_predictors_errors_mean_what_they_say(
    fronted: Any,
    upstream: tuple[Upstream, int],
    status: int,
    content: Any,
    ours: int,
    message: str,
) -> None:
    app, _ = upstream
    app.answers = [(status, {"retry-after": "7"}, content)] * 3
    answer = ask(fronted)
    assert answer.status_code == ours, answer.text
    assert message in answer.json()["error"]
    assert "secret" not in answer.text
    if ours == 429:
        assert answer.headers["retry-after"] == "7"


def test_only_what_was_not_begun_is_tried_again(
    fronted: Any, upstream: tuple[Upstream, int]
) -> None:
    app, _ = upstream
    busy = (503, {"retry-after": "4"}, {"error": "full"})
    app.answers = [busy, busy, (200, {}, GOOD)]
    assert ask(fronted).status_code == 200
    app.answers = [busy] * 4
    answer = ask(fronted)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "4")
    assert len(app.answers) == 1, "two retries, and no more"
    app.answers = [(500, {}, b""), (200, {}, GOOD)]
    assert ask(fronted).status_code == 500
    assert len(app.answers) == 1


def test_a_slow_predictor_is_not_waited_for(fronted: Any, upstream: tuple[Upstream, int]) -> None:
    app, _ = upstream
    app.answers = [(200, {}, GOOD)] * 2
    app.delay = 3.0
    try:
        answer = ask(fronted)
    finally:
        app.delay = 0.0
    assert answer.status_code == 504
    assert "within 1 s" in answer.json()["error"]


def test_a_clients_deadline_is_the_predictors_too(
    fronted: Any, upstream: tuple[Upstream, int]
) -> None:
    app, _ = upstream
    url = f"{fronted.url}/v2/models/toy/infer"
    app.answers = [(200, {}, GOOD)] * 2
    answer = httpx.post(url, json=v2(parameters={"timeout": 700_000}))
    assert answer.status_code == 200
    assert 300_000 < app.bodies[-1]["parameters"]["timeout"] <= 700_000
    app.delay = 3.0
    try:
        answer = httpx.post(url, json=v2(parameters={"timeout": 200_000}))
    finally:
        app.delay = 0.0
    assert answer.status_code == 504


def test_many_requests_are_on_their_way_at_once(
    fronted: Any, upstream: tuple[Upstream, int]
) -> None:
    app, _ = upstream
    app.answers = [(200, {}, GOOD)] * 40
    app.delay = 0.5

    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(timeout=20) as client:
            url = f"{fronted.url}/v2/models/toy/infer"
            answers = await asyncio.gather(*(client.post(url, json=v2()) for _ in range(40)))
            return [answer.status_code for answer in answers]

    try:
        # One after another they would take 20 s, and the predictor's second would be over.
        assert asyncio.run(all_at_once()) == [200] * 40
    finally:
        app.delay = 0.0


def test_a_predictor_of_v1_alone(alone: Any, upstream: tuple[Upstream, int]) -> None:
    app, port = upstream
    before, app.metadata = app.metadata, {"name": "toy", "inputs": [], "outputs": []}
    try:
        address = ("--predictor_host", f"127.0.0.1:{port}", "--model_name", "toy")
        served = alone("Declared", *address)
        app.answers = [(200, {}, {"predictions": [2, 0]})]
        answer = ask(served)
        assert answer.json()["outputs"][0]["data"] == ["unknown", "normal"]
        assert app.paths[-1] == "/v1/models/toy:predict"
        silent = alone("Halved", *address, ready=False)
        answer = until(
            lambda: _get(f"{silent.url}/v2/models/toy/ready"), status=503, holding="declare"
        )
        assert "declare `model_inputs` and `model_outputs`" in answer.json()["error"]
    finally:
        app.metadata = before


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


def _get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=5)
    except httpx.TransportError:
        return None


def until(
    ask: Callable[[], httpx.Response | None], *, status: int, holding: str = ""
) -> httpx.Response:
    found: list[httpx.Response] = []

    def there() -> bool:
        answer = ask()
        if answer is not None:
            found.append(answer)
        return answer is not None and answer.status_code == status and holding in answer.text

    until_true(there)
    return found[-1]


def until_true(there: Callable[[], bool]) -> None:
    for _ in range(600):
        if there():
            return
        threading.Event().wait(0.05)
    raise AssertionError("not in 30 s")
