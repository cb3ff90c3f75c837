"""Real servers for what is fetched: HTTP with faults to order, S3 (moto), and a tiny network."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from coalmine.sources import Fetched, fetch


def network(scale: int = 1) -> bytes:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], [f"y{scale}"])],
        "identity",
        [info("x", TensorProto.FLOAT, [None, 2])],
        [info(f"y{scale}", TensorProto.FLOAT, [None, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(name="network")
def network_fixture() -> Callable[..., bytes]:
    return network


class Web(ThreadingHTTPServer):
    """Files by path; `faults` are the answers that come first: a status, "cut" or "slow"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Any] = []
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.extra: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked[path] += 1
        self.server.headers.append(dict(self.headers))
        fault = self.server.faults.pop(0) if self.server.faults else None
        body = self.server.files.get(path)
        if body is None or isinstance(fault, int):
            self.send_error(fault or 404)
            return
        self.send_response(200)
        kind = "application/zip" if path.endswith(".zip") else "application/octet-stream"
        self.send_header("content-type", "application/gzip" if path.endswith("gz") else kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", f'"{hashlib.sha256(body).hexdigest()}"')
        for name, value in self.server.extra.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "slow":
            self.wfile.write(body[: len(body) // 2])
            time.sleep(1.0)
            self.wfile.write(body[len(body) // 2 :])
            return
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Fetched]:
    """`fetch` into a cache of the test's own, without long waits between attempts."""

    def fetched(uri: str, **more: Any) -> Fetched:
        return fetch(uri, cache=tmp_path / "cache", delay=0.01, **more)

    return fetched


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of an S3 server, in a process of its own; the environment points at the server."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "coalmine-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "coalmine-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        deadline = time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket="models")
                break
            except Exception:
                assert time.monotonic() < deadline, "the S3 server does not start"
                assert server.poll() is None
                time.sleep(0.2)
        yield client
    server.kill()
    server.wait()
