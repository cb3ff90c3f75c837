"""A client that leaves while its request is in flight is counted and recorded; the others go on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from coalmine.serving import ServeOptions, create_asgi

#: Seconds that the model takes for each request here.
LONG = 2.5


def body(identifier: str) -> bytes:
    inputs = [
        {"name": "raw", "datatype": "FP32", "shape": [1, 4], "data": [0.5] * 4},
        {"name": "wait", "datatype": "FP32", "shape": [1], "data": [LONG]},
    ]
    return json.dumps({"id": identifier, "inputs": inputs}).encode()


def begin(port: int, content: bytes, *, length: int | None = None) -> socket.socket:
    """A request whose answer nobody has read yet."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    size = len(content) if length is None else length
    head = f"POST /v2/models/toy/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def metric(served: Any, start: str) -> float:
    text = httpx.get(f"{served.url}/metrics", timeout=20).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))


def requests(protocol: str, status: int) -> str:
    return (
        f'coalmine_requests_total{{arm="stable",model_name="toy",protocol="{protocol}",'
        f'revision="1",status="{status}"}}'
    )


@pytest.fixture(params=["native", pytest.param("uvicorn", marks=pytest.mark.slow)])
def served(
    request: pytest.FixtureRequest, start: Any, model_dir: Path, tmp_path: Path, collector: Any
) -> Any:
    return start(
        model_dir,
        *("--transformer", "moody:Moody"),
        *("--records", collector[0], "--spool", str(tmp_path / "spool")),
        kind=request.param,
    )


def test_who_leaves_is_499_and_who_stays_is_answered(served: Any, collector: Any) -> None:
    _, log = collector
    waiting = [begin(served.port, body(name)) for name in ("running", "queued", "stays")]
    wait_for(lambda: metric(served, "coalmine_inflight_requests") == 3)
    for connection in waiting[:2]:
        connection.close()
    wait_for(lambda: metric(served, requests("v2", 499)) == 2)
    stayed = b""
    while b"outputs" not in stayed and (chunk := waiting[2].recv(65536)):
        stayed += chunk
    assert stayed.startswith(b"HTTP/1.1 200")
    assert b'"stays"' in stayed
    waiting[2].close()
    assert metric(served, requests("v2", 200)) == 1
    assert metric(served, "coalmine_inflight_requests") == 0

    wait_for(lambda: log.stats().rows >= 3)
    rows = {
        row["request_id"]: row
        for _, batch in log.read(0, limit_rows=100)
        for row in batch.to_pylist()
    }
    assert {name: row["status"] for name, row in rows.items()} == {
        "running": 499,
        "queued": 499,
        "stays": 200,
    }
    assert rows["queued"]["error"] == rows["running"]["error"] == "client closed"
    assert served.stop() == 0
    assert "Traceback" not in served.text()
    assert "ERROR" not in served.text()


def test_half_a_request_is_499_too(served: Any) -> None:
    content = body("half")
    begin(served.port, content[:50], length=len(content)).close()
    wait_for(lambda: metric(served, requests("v2", 499)) == 1)
    assert metric(served, "coalmine_inflight_requests") == 0


async def test_half_a_call_of_grpc_is_499_where_it_comes_as_asgi(model_dir: Path) -> None:
    """As it does behind Envoy, and where spans are made."""
    app = create_asgi(ServeOptions(model=str(model_dir), name="toy"))
    pieces = iter(
        [{"type": "http.request", "body": b"\0\0", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(pieces)

    async def send(message: Any) -> None:
        raise AssertionError(f"nobody is there to hear {message}")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/inference.GRPCInferenceService/ModelInfer",
        "headers": [(b"content-type", b"application/grpc")],
        "extensions": {"http.response.trailers": {}},
    }
    await app(scope, receive, send)
    assert f"{requests('grpc', 499)} 1.0" in (await app.plane.metrics.render()).decode()
    assert app.plane.arriving.size == 0
    app.plane.repository.close()


def test_a_cancelled_call_of_grpc_is_499(served: Any, collector: Any) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as client:
        tensors = [
            triton_grpc.InferInput("raw", [1, 4], "FP32"),
            triton_grpc.InferInput("wait", [1], "FP32"),
        ]
        tensors[0].set_data_from_numpy(np.zeros((1, 4), np.float32))
        tensors[1].set_data_from_numpy(np.array([LONG], np.float32))
        call = client.async_infer("toy", tensors, callback=lambda *_: None)
        wait_for(lambda: metric(served, "coalmine_inflight_requests") == 1)
        call.cancel()
        wait_for(lambda: metric(served, requests("grpc", 499)) == 1)
    wait_for(lambda: collector[1].stats().rows == 1)
    ((_, batch),) = collector[1].read(0, limit_rows=10)
    (row,) = batch.to_pylist()
    assert (row["protocol"], row["status"], row["error"]) == ("grpc", 499, "client closed")
