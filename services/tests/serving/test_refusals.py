"""What a client did wrong is a 4xx with a reason, whatever it was; the server goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine.protocol import MalformedRequestError
from coalmine.serving import BodyTooLargeError, EncodingError
from coalmine.serving._encoding import inflate

#: Cheap in general, and slow when a request asks for it.
MOODY = ("--transformer", "moody:Moody", "--inline", "never")
GOOD = {"instances": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/v1/models/toy:predict", b"", 400),
        ("/v1/models/toy:predict", b"\xff\xfe", 400),
        ("/v1/models/toy:predict", b'{"instances": [[1, 2, 3]]}', 400),
        ("/v1/models/toy:predict", b'{"instances": [["a", 2, 3, 4]]}', 400),
        ("/v1/models/other:predict", b'{"instances": []}', 404),
        ("/v2/models/toy/infer", b"{}", 400),
        ("/v2/models/toy/infer", b"[" * 5000, 400),
        ("/v2/models/toy/versions/2/infer", b"{}", 404),
        ("/nothing/here", b"{}", 404),
    ],
)
async def test_mistakes(
    toy: Any, client: httpx.AsyncClient, path: str, content: bytes, status: int
) -> None:
    answer = await client.post(toy.url + path, content=content)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(("streams", "status"), [(1, 200), (100, 200), (101, 400), (200_000, 400)])
async def test_a_body_of_many_compressed_streams_costs_no_time(
    toy: Any, client: httpx.AsyncClient, streams: int, status: int
) -> None:
    """gzip allows it, and each was copied with all that follow: 4 MB took ten seconds."""
    body = gzip.compress(json.dumps(GOOD).encode()) + gzip.compress(b"") * (streams - 1)
    answer = await client.post(
        f"{toy.url}/v1/models/toy:predict", content=body, headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == status, answer.text


def test_what_a_body_inflates_to_is_bounded_over_all_its_streams() -> None:
    half = gzip.compress(b"x" * 50)
    assert inflate(half * 2, " GZIP", limit=100) == b"x" * 100
    assert inflate(half, "identity ", limit=1) == half, "its own size was looked at before"
    for body, encoding, limit, error in (
        (half * 2, "gzip", 99, BodyTooLargeError),
        (half[:-9], "gzip", 100, MalformedRequestError),
        (half + b"x", "gzip", 100, MalformedRequestError),
        (half, "deflate", 100, MalformedRequestError),
        (half, "br", 100, EncodingError),
    ):
        with pytest.raises(error):
            inflate(body, encoding, limit=limit)


async def test_methods_and_encodings(toy: Any, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{toy.url}/v1/models/toy:predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await client.post(
        f"{toy.url}/v1/models/toy:predict", content=b"x", headers={"content-encoding": "br"}
    )
    assert answer.status_code == 415


@pytest.mark.parametrize("length", ["-1", "nine", "99999", "9" * 40, ""])
async def test_the_length_of_the_json_part(
    toy: Any, client: httpx.AsyncClient, length: str
) -> None:
    headers = {"inference-header-content-length": length}
    answer = await client.post(f"{toy.url}/v2/models/toy/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
async def test_a_body_too_large_is_refused_before_it_is_held(
    start: Any, model_dir: Path, client: httpx.AsyncClient, kind: str
) -> None:
    served = start(model_dir, "--max-body", "1000", kind=kind)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 100

    for content in (b"x" * 1001, endless()):
        answer = await client.post(f"{served.url}/v1/models/toy:predict", content=content)
        assert answer.status_code == 413
        assert "1000" in answer.json()["error"]
    answer = await client.post(f"{served.url}/v1/models/toy:predict", json=GOOD)
    assert answer.status_code == 200


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
@pytest.mark.parametrize(
    ("bound", "status", "reason"),
    [(("--max-concurrency", "3"), 429, "concurrency"), (("--max-queue-rows", "2"), 503, "queue")],
)
async def test_too_much_at_once_is_shed_with_a_time_to_come_back(
    start: Any,
    model_dir: Path,
    client: httpx.AsyncClient,
    kind: str,
    bound: tuple[str, str],
    status: int,
    reason: str,
) -> None:
    served = start(model_dir, *MOODY, *bound, kind=kind)
    url = f"{served.url}/v1/models/toy:predict"
    slow = {"instances": [{"raw": [1, 2, 3, 4], "wait": 1.5}]}
    answers = await asyncio.gather(*(client.post(url, json=slow) for _ in range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[:3] == [200, 200, 200], "one or two run, two wait"
    assert set(statuses[4:]) == {status}
    for answer in answers:
        if answer.status_code != 200:
            assert answer.headers["retry-after"] == "1"
    text = (await client.get(f"{served.url}/metrics")).text
    shed = f'coalmine_requests_shed_total{{arm="stable",model_name="toy",reason="{reason}"'
    assert shed in text


async def test_a_transformer_speaks_for_the_client_and_hides_its_own_failures(
    start: Any, model_dir: Path, client: httpx.AsyncClient, truth: Any
) -> None:
    served = start(model_dir, *MOODY)
    url = f"{served.url}/v1/models/toy:predict"

    def row(first: float) -> dict[str, Any]:
        return {"raw": [first, 0, 0, 1], "wait": 0.01}

    inputs = (await client.get(f"{served.url}/v2/models/toy")).json()["inputs"]
    assert [tensor["name"] for tensor in inputs] == ["raw", "wait"]
    values = [1.0, 13.0, 2.0, 666.0, 3.0]
    answers = await asyncio.gather(
        *(client.post(url, json={"instances": [row(value)]}) for value in values)
    )
    assert [answer.status_code for answer in answers] == [200, 400, 200, 500, 200]
    assert answers[1].json() == {"error": "thirteen is not a telemetry value"}
    assert "secret" not in answers[3].text
    for value, answer in zip(values, answers, strict=True):
        if answer.status_code == 200:
            (label,), _ = truth([[value * 2, 0, 0, 2]])
            assert answer.json()["predictions"][0]["label"] == label


def exchange(port: int, payload: bytes) -> bytes:
    """Send bytes, half-close, read what comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        except OSError:
            return b""
        return received


def test_nonsense_on_the_wire_never_is_a_server_error(toy: Any) -> None:
    chaos = random.Random(5)
    head = b"POST /v2/models/toy/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    payloads = [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        head + b"content-length: -5\r\n\r\n",
        head + b"content-length: 100\r\n\r\nshort",
        head + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        head + b"content-length: 2\r\ninference-header-content-length: 1\r\n\r\n{}",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
    ]
    body = b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
    for _ in range(150):
        broken = bytearray(body)
        for _ in range(chaos.randint(1, 6)):
            broken[chaos.randrange(len(broken))] = chaos.randrange(256)
        payloads.append(head + b"content-length: %d\r\n\r\n" % len(broken) + bytes(broken))
    for payload in payloads:
        answer = exchange(toy.port, payload)
        assert not answer.startswith(b"HTTP/1.1 5"), payload
    assert httpx.post(f"{toy.url}/v1/models/toy:predict", json=GOOD).status_code == 200


def test_nonsense_in_grpc_never_is_internal(toy: Any) -> None:
    import grpc

    chaos = random.Random(6)
    with grpc.insecure_channel(f"127.0.0.1:{toy.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for size in (0, 1, 4, 20, 200):
            for _ in range(10):
                with pytest.raises(grpc.RpcError) as caught:
                    infer(chaos.randbytes(size), timeout=5)
                assert caught.value.code() in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.NOT_FOUND,
                )


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_frames_that_are_none(start: Any, model_dir: Path) -> None:
    url = f"{start(model_dir).url}/inference.GRPCInferenceService/ModelInfer"
    curl = ["curl", "-sS", "-m", "10", "-D", "-", "-o", "/dev/null", "--data-binary", "@-"]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    for body, status in (
        (b"", "3"),
        (b"\0\0", "3"),
        (struct.pack(">BI", 0, 2**31) + b"abc", "3"),
        (struct.pack(">BI", 1, 3) + b"abc", "3"),
        (struct.pack(">BI", 2, 3) + b"abc", "3"),
    ):
        over_http2 = [*curl, *headers, "--http2-prior-knowledge", url]
        answer = subprocess.run(over_http2, input=body, capture_output=True, check=True)
        head = answer.stdout.decode().lower()
        assert head.startswith("http/2 200")
        assert f"grpc-status: {status}\r\n" in head
    over_http1 = subprocess.run([*curl, *headers, url], input=b"", capture_output=True, check=True)
    assert b" 404 " in over_http1.stdout.splitlines()[0], "which has no trailers"
