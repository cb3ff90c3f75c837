"""Too much, too slow, too many: bounded everywhere, and nobody in flight is let down."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from coalmine.protocol.protobuf import message_class
from coalmine.records import spool_stats

from ..servers import Server, identity, serving, unused_port

BOTH = pytest.mark.parametrize("kind", ["native", "uvicorn"])
INFER = "/inference.GRPCInferenceService/ModelInfer"
#: A transformer that takes as long as it is told: what is in flight can be seen.
SLOW = """
import time
from coalmine.protocol import TensorSpec

class Slow:
    inputs = (TensorSpec("x", "FP32", (-1, 1)),)

    def preprocess(self, tensors):
        seconds = float(tensors["x"].max())
        time.sleep(0.001 if seconds in (0, 1) else seconds)  # a warm-up is of ones
        return tensors

    def postprocess(self, tensors):
        return tensors
"""


@contextmanager
def slow(directory: Path, *arguments: str, kind: str) -> Iterator[Server]:
    (directory / "slow.py").write_text(SLOW)
    model = identity(directory / "slow.onnx", (("x", "FP32", (-1, 1)),))
    options = ("--transformer", "slow:Slow", *arguments)
    with serving(
        model, directory / "log", *options, kind=kind, PYTHONPATH=str(directory)
    ) as server:
        yield server


def body(seconds: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [seconds]}]}


def until(true: Any, what: str, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@BOTH
def test_a_body_too_large_is_neither_read_nor_held(tmp_path: Path, kind: str) -> None:
    limit = 4 * 1024**2
    with slow(tmp_path, "--max-body", str(limit), kind=kind) as server:
        before = server.resident
        head = b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\n"
        for announced in (
            b"content-length: 4000000000\r\n\r\n",
            b"transfer-encoding: chunked\r\n\r\n",
        ):
            chunk = b"x" * 65536
            if announced.startswith(b"transfer"):
                chunk = b"10000\r\n" + chunk + b"\r\n"
            sent, unsent = 0, b""
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(head + announced)
                connection.setblocking(False)
                answer = b""
                deadline = time.monotonic() + 20
                while b"\r\n\r\n" not in answer and time.monotonic() < deadline:
                    try:
                        answer += connection.recv(65536)
                    except BlockingIOError:
                        pass
                    except ConnectionError:
                        break
                    unsent = unsent or chunk
                    try:
                        gone = connection.send(unsent) if sent < 40 * limit else 0
                        sent, unsent = sent + gone, unsent[gone:]
                    except BlockingIOError:
                        time.sleep(0.005)
                    except ConnectionError:
                        break
            assert answer.startswith(b"HTTP/1.1 413"), answer[:100]
            assert sent < 10 * limit, "read on and on"
        assert server.resident - before < 4 * limit
        assert httpx.post(f"{server.url}/v2/models/slow/infer", json=body(0)).status_code == 200


@BOTH
@pytest.mark.parametrize(
    ("limit", "status", "code"),
    [
        (("--max-queue-rows", "2"), 503, "StatusCode.UNAVAILABLE"),
        (("--max-concurrency", "3"), 429, "StatusCode.RESOURCE_EXHAUSTED"),
    ],
)
async def test_what_is_shed_says_when_to_come_back(
    tmp_path: Path, kind: str, limit: tuple[str, str], status: int, code: str
) -> None:
    with slow(tmp_path, *limit, kind=kind) as server:
        url = f"{server.url}/v2/models/slow/infer"
        async with httpx.AsyncClient(timeout=30) as client:
            answers = await asyncio.gather(*(client.post(url, json=body(0.8)) for _ in range(12)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, status}
        # At least one runs and two wait; what arrives together may run together too.
        assert 3 <= statuses.count(200) <= 6
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == status)
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") for _ in range(12)]
        codes = await asyncio.gather(*(_grpc_call(channel, 0.8) for channel in channels))
        for channel in channels:
            await channel.close()
        assert set(codes) == {"OK", code}
        assert 3 <= codes.count("OK") <= 6
        answered = statuses.count(200) + codes.count("OK")
        assert server.metric("coalmine_requests_total", status="200") == answered
        assert server.metric("coalmine_requests_shed_total") == 24 - answered


def message(seconds: float) -> bytes:
    request = message_class("ModelInferRequest")(model_name="slow")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    tensor.contents.fp32_contents.append(seconds)
    payload: bytes = request.SerializeToString()
    return payload


async def _grpc_call(channel: grpc.aio.Channel, seconds: float) -> str:
    call = channel.unary_unary(INFER)(message(seconds), timeout=30)
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return "OK"
    metadata = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
    assert metadata["retry-after"] == "1"
    return str(code)


@BOTH
def test_a_slow_body_gives_its_place_back(tmp_path: Path, kind: str) -> None:
    with slow(tmp_path, "--receive-timeout", "1", "--max-concurrency", "3", kind=kind) as server:
        head = b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{"
        with ExitStack() as stack:
            for _ in range(3):
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
                stack.enter_context(connection).sendall(head)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
            url = f"{server.url}/v2/models/slow/infer"
            until(lambda: httpx.post(url, json=body(0)).status_code == 200, "still held")


@pytest.mark.slow
@BOTH
def test_connections_have_a_limit(tmp_path: Path, kind: str) -> None:
    with slow(tmp_path, "--max-connections", "20", kind=kind) as server:
        url = f"{server.url}/v2/models/slow/infer"
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", server.port), timeout=10)
                )
            try:
                refused = httpx.post(url, json=body(0), timeout=10).status_code == 503
            except httpx.TransportError:
                refused = True
            assert refused
        until(lambda: _answers(url), "does not recover")


def _answers(url: str) -> bool:
    try:
        return httpx.post(url, json=body(0), timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@BOTH
def test_idle_connections_cost_next_to_nothing(tmp_path: Path, kind: str) -> None:
    with slow(tmp_path, kind=kind) as server, ExitStack() as stack:
        url = f"{server.url}/v2/models/slow/infer"
        httpx.post(url, json=body(0))
        before = server.resident
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        assert httpx.post(url, json=body(0)).status_code == 200
        assert server.resident - before < 40 * 1024**2


@BOTH
def test_who_leaves_during_compute_is_counted_and_disturbs_nobody(
    tmp_path: Path, kind: str
) -> None:
    with slow(tmp_path, kind=kind) as server:
        url = f"{server.url}/v2/models/slow/infer"
        with httpx.Client() as client:
            for _ in range(3):
                with pytest.raises(httpx.ReadTimeout):
                    client.post(url, json=body(0.5), timeout=0.2)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(INFER)(message(0.5), timeout=0.2)
        assert httpx.post(url, json=body(0), timeout=20).status_code == 200
        until(lambda: server.metric("coalmine_inflight_requests") == 0, "still in flight")
        # Every request that was begun is counted once, whether or not its answer arrived.
        until(lambda: server.metric("coalmine_requests_total") == 5, "not all are counted")
        assert "Traceback" not in server.text


class Load:
    """Clients that ask without a pause, and stop when the server says it is not ready."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answered = 0
        self.failed: list[str] = []
        self.draining = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._http) for _ in range(4)]
        self._threads += [threading.Thread(target=self._grpc) for _ in range(2)]
        self._threads.append(threading.Thread(target=self._watch))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _count(self, failure: str | None) -> None:
        with self._lock:
            if failure is None:
                self.answered += 1
            else:
                self.failed.append(failure)

    def _watch(self) -> None:
        """What Kubernetes does: it asks for readiness, and sends nobody any more after a no."""
        while True:
            try:
                if httpx.get(f"{self.server.url}/v2/health/ready", timeout=5).status_code != 200:
                    break
            except httpx.TransportError:
                break
            time.sleep(0.01)
        self.draining.set()

    def _http(self) -> None:
        with httpx.Client(timeout=20) as client:
            while not self.draining.is_set():
                try:
                    url = f"{self.server.url}/v2/models/slow/infer"
                    status = client.post(url, json=body(0.05)).status_code
                    self._count(None if status == 200 else str(status))
                except httpx.TransportError as error:
                    self._count(repr(error))

    def _grpc(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}") as channel:
            while not self.draining.is_set():
                try:
                    channel.unary_unary(INFER)(message(0.05), timeout=20)
                    self._count(None)
                except grpc.RpcError as error:
                    self._count(str(error))


@BOTH
def test_sigterm_under_load_fails_nobody_and_loses_no_record(tmp_path: Path, kind: str) -> None:
    spool = tmp_path / "spool"
    collector = f"http://127.0.0.1:{unused_port()}"  # away: records stay in the spool
    with slow(tmp_path, "--records", collector, "--spool", str(spool), kind=kind) as server:
        load = Load(server)
        load.start()
        until(lambda: load.answered > 50, "no load")
        server.process.send_signal(signal.SIGTERM)
        load.join()
        assert server.process.wait(15) == 0, server.text
        assert load.failed == []
        assert spool_stats(spool).emitted_rows == load.answered
        assert "Traceback" not in server.text
