"""A transformer as a server of its own: what it sends on, and what a predictor's answers mean."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from coalmine.protocol import Tensors, TensorSpec
from coalmine.serving._errors import PredictorAnswerError, PredictorUnavailableError
from coalmine.serving._transformer_grpc import GrpcPredictor
from coalmine.serving._transformer_options import PredictorOptions
from coalmine.serving._transformer_remote import specs_of

from .alone import get, until, until_true, v2
from .upstream import GOOD, Upstream


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


class Identity:
    """Does nothing; one row in, one row out."""

    inputs = (TensorSpec("features", "FP32", (-1, 4)),)

    def preprocess(self, tensors: Tensors) -> Tensors:
        return {"features": tensors["features"][:]}

    def postprocess(self, tensors: Tensors) -> Tensors:
        return tensors


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
            {"outputs": [{**GOOD["outputs"][0], "parameters": "x"}]},
            502,
            "cannot be read",
        ),
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


@pytest.mark.parametrize("shape", [None, 5, "ab", [1.5], ["x"], [None]])
def test_metadata_that_is_none_is_the_predictors_fault(shape: Any) -> None:
    """And not ours: the transformer goes on asking."""
    with pytest.raises(PredictorAnswerError, match="the metadata of the predictor at here"):
        specs_of([("x", "FP32", shape)], where="here")


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


async def test_a_grpc_predictor_that_dies_with_a_request_may_have_begun_it() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # empty settings: gRPC takes it for a connection
        await reader.readuntil(b"toy")  # the model's name, in the message
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options = PredictorOptions(host=f"127.0.0.1:{port}", protocol="grpc-v2", timeout=30)
    client = GrpcPredictor(options, name="toy")
    try:
        with pytest.raises(PredictorAnswerError, match="ended the connection without an answer"):
            await client.describe()
        server.close()
        await server.wait_closed()
        said = ""
        for _ in range(50):  # the dead connection may be used once more before gRPC knows
            try:
                await client.describe()
            except PredictorUnavailableError as error:
                said = str(error)
                break
            except PredictorAnswerError:
                continue
        assert "cannot be reached" in said
    finally:
        await client.close()
        server.close()


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


def test_under_kserves_server_too() -> None:
    """In a process of its own: KServe's protocol buffers do not bear tritonclient's."""
    tests = Path(__file__).with_name("under_kserve.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    ran = subprocess.run(command, cwd=tests.parents[3], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr


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
            lambda: get(f"{silent.url}/v2/models/toy/ready"), status=503, holding="declare"
        )
        assert "declare `model_inputs` and `model_outputs`" in answer.json()["error"]
    finally:
        app.metadata = before
