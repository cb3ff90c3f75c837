"""What wrk and h2load print is read rightly, and no wrong answer gets past them unseen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import orjson
import pytest

from coalmine_loadtests.serving import CELLS, WrongAnswerError
from coalmine_loadtests.serving._client import connect
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._load import parse_h2load, parse_wrk
from coalmine_loadtests.serving._models import MODELS, random_rows, write_model
from coalmine_loadtests.serving._verify import Reference, Verifier
from coalmine_loadtests.serving._wire import PLAIN, V2

WRK = """Running 1s test @ http://127.0.0.1:8080/v2/models/mlp/infer
  1 threads and 8 connections
RESULT {"requests":12000,"bytes":99,"microseconds":1500000,"p50_us":400.5,"p99_us":2100,\
"errors":{"connect":0,"read":%d,"write":0,"status":%d,"timeout":0}}
"""
H2LOAD = """starting benchmark...
finished in %s, 8000.00 req/s, 1.00MB/s
requests: 4 total, 4 started, 4 done, %d succeeded, %d failed, 0 errored, 0 timeout
status codes: %d 2xx, 0 3xx, 0 4xx, %d 5xx
traffic: 886B (886) total, 334B (334) headers (space savings 55.11%%), 308B (%d) data
"""


def h2load_log(tmp_path: Path) -> Path:
    log = tmp_path / "log"
    log.write_text("".join(f"17633{n}\t200\t{took}\n" for n, took in enumerate((1, 2, 3, 4000))))
    return log


def test_wrk_is_read_and_its_errors_are_counted() -> None:
    load = parse_wrk(WRK % (0, 0))
    assert load.requests == 12000
    assert load.requests / load.seconds == 8000
    assert (load.p50_ms, load.p99_ms, load.errors, load.told) == (0.4005, 2.1, 0, "")
    bad = parse_wrk(WRK % (2, 5))
    assert bad.errors == 7
    assert bad.told == "2 read errors, 5 status errors"


def test_wrk_that_told_nothing_is_an_error() -> None:
    with pytest.raises(ServingBenchError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(
    ("text", "seconds"), [("500.00ms", 0.5), ("1.50s", 1.5), ("250us", 0.00025), ("1.5m", 90)]
)
def test_h2load_is_read(text: str, seconds: float, tmp_path: Path) -> None:
    output = H2LOAD % (text, 4, 0, 4, 0, 4 * 77)
    load = parse_h2load(output, h2load_log(tmp_path), requests=4, answer_bytes=77)
    assert load.seconds == pytest.approx(seconds)
    assert (load.requests, load.errors, load.told) == (4, 0, "")
    assert load.p50_ms == pytest.approx(0.0025)
    assert load.p99_ms > 3


def test_a_grpc_error_has_no_message_and_is_found_by_its_bytes(tmp_path: Path) -> None:
    # HTTP's status is 200 for all four; one call ended with a status in its trailers alone.
    output = H2LOAD % ("1.00s", 4, 0, 4, 0, 3 * 77)
    load = parse_h2load(output, h2load_log(tmp_path), requests=4, answer_bytes=77)
    assert load.errors == 1
    assert "231 bytes, not 4 x 77" in load.told


def test_h2load_counts_what_http_itself_refused(tmp_path: Path) -> None:
    output = H2LOAD % ("1.00s", 3, 1, 3, 1, 3 * 77)
    load = parse_h2load(output, h2load_log(tmp_path), requests=4, answer_bytes=77)
    assert load.errors == 1
    assert load.told == "1 of 4 calls failed"


def test_h2load_that_told_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServingBenchError, match="no result"):
        parse_h2load("connect failed", tmp_path / "none", requests=4, answer_bytes=77)


class Server:
    """A real HTTP server that runs the model, and can be told to lie."""

    def __init__(self, model: Path) -> None:
        reference = Reference(model)
        self.lie_by, self.status = 0.0, 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                rows = np.array(orjson.loads(body)["input"], np.float32)
                answer = reference.run(rows) + np.float32(outer.lie_by)
                reply = orjson.dumps({"output": answer.tolist()})
                self.send_response(outer.status)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(MODELS["mlp"], tmp_path)


@pytest.fixture
def server(model: Path) -> Iterator[Server]:
    server = Server(model)
    yield server
    server.close()


@pytest.mark.parametrize("cell", ["mlp/json1_c8", "mlp/json64_c8"])
def test_a_right_answer_is_verified(cell: str, model: Path, server: Server) -> None:
    client = connect(CELLS[cell], http_port=server.port, grpc_port=0)
    verifier = Verifier(CELLS[cell], PLAIN, Reference(model))
    size = verifier.verify(client)
    client.close()
    assert size > 20
    assert len({request.body for request in verifier.requests}) == len(verifier.requests)


@pytest.mark.parametrize(
    ("lie_by", "status", "told"),
    [
        (0.001, 200, "off by up to 0.001"),
        (0.0, 503, "status 503"),
        (np.nan, 200, "off by up to nan"),
    ],
)
def test_a_wrong_answer_is_told(
    lie_by: float, status: int, told: str, model: Path, server: Server
) -> None:
    cell = CELLS["mlp/json64_c8"]
    client = connect(cell, http_port=server.port, grpc_port=0)
    server.lie_by, server.status = lie_by, status
    with pytest.raises(WrongAnswerError, match=told):
        Verifier(cell, PLAIN, Reference(model)).verify(client)
    client.close()


def test_nothing_there_is_a_wrong_answer(model: Path) -> None:
    for name in ("mlp/json1_c8", "mlp/grpc1_c8m1"):
        client = connect(CELLS[name], http_port=9, grpc_port=9)
        with pytest.raises(WrongAnswerError, match=r"no answer|UNAVAILABLE"):
            Verifier(CELLS[name], V2, Reference(model)).verify(client)
        client.close()


@pytest.mark.parametrize("name", ["mlp/json64_c8", "mlp/bin64_c8", "mlp/grpc1024_c8m1"])
def test_an_answer_of_another_shape_cannot_be_read(name: str) -> None:
    from coalmine.protocol.protobuf import message_class

    cell = CELLS[name]
    head = b'{"outputs":[{"name":"output","shape":[1,1],"datatype":"FP32","data":[0.5]}]}'
    response = message_class("ModelInferResponse")()
    response.outputs.add(name="output", datatype="FP32", shape=[1, 1])
    body = response.SerializeToString() if cell.protocol == "grpc" else head
    with pytest.raises(WrongAnswerError, match="shape"):
        V2.answer(cell, {}, body)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_models_are_the_same_for_the_same_seed(name: str, tmp_path: Path) -> None:
    once = write_model(MODELS[name], tmp_path / "1").read_bytes()
    assert once == write_model(MODELS[name], tmp_path / "2").read_bytes()
    rows = random_rows(MODELS[name], 2, np.random.default_rng(0))
    answer = Reference(tmp_path / "1" / f"{name}.onnx").run(rows)
    assert answer.shape == (2, *MODELS[name].answer)
    assert np.isfinite(answer).all()
    assert np.ptp(answer, axis=0).max() > 0  # it depends on what is asked


def test_the_model_in_process_is_a_process_of_its_own(model: Path) -> None:
    command = [sys.executable, "-m", "coalmine_loadtests.serving._in_process", "mlp", str(model)]
    done = subprocess.run([*command, "64", "0.1"], capture_output=True, text=True, check=True)
    content = orjson.loads(done.stdout)
    assert content["requests"] > 10
    assert 0 < content["p50_ms"] <= content["p99_ms"]
