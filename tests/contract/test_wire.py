"""curl, gRPC without a generated client, and the health protocol of Kubernetes' probes."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import httpx
import orjson
import pytest

from coalmine.protocol.protobuf import message_class

from ..servers import Server

curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def whole() -> dict[str, Any]:
    """A request with every input of the model, one row each."""
    values = {"BOOL": [True, False], "BYTES": ["a", "ü"]}
    kinds = ["BOOL", "BYTES", "FP16", "FP32", "FP64"]
    kinds += [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
    return {
        "inputs": [
            {
                "name": kind.lower(),
                "datatype": kind,
                "shape": [1, 2],
                "data": values.get(kind, [1, 2]),
            }
            for kind in kinds
        ]
    }


def run(*arguments: str, stdin: bytes = b"") -> tuple[int, Any]:
    """curl's answer: status and content."""
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}", *arguments],
        input=stdin,
        capture_output=True,
        check=True,
    )
    text, _, status = done.stdout.rpartition(b"\n")
    return int(status), orjson.loads(text)


@curl
@pytest.mark.parametrize(
    "how",
    [
        ["--data-binary", "@-"],
        ["--data-binary", "@-", "-H", "content-type:"],
        ["--data-binary", "@-", "-H", "content-type: application/json; charset=utf-8"],
        ["--data-binary", "@-", "-H", "content-type: text/plain"],
        ["--data-binary", "@-", "-H", "transfer-encoding: chunked"],
        ["--data-binary", "@-", "-H", "expect: 100-continue"],
        ["--data-binary", "@-", "--http1.0"],
        ["--data-binary", "@-", "--http2"],
        ["--data-binary", "@-", "--http2-prior-knowledge"],
    ],
    ids=lambda how: " ".join(how[2:]) or "plain",
)
def test_curl(every: Server, how: list[str]) -> None:
    if "--http2-prior-knowledge" in how and every.kind == "uvicorn":
        pytest.skip("uvicorn has no HTTP/2")
    sent = json.dumps(whole()).encode()
    status, content = run(*how, f"{every.url}/v2/models/every/infer", stdin=sent)
    assert (status, content["model_name"]) == (200, "every")
    outputs = {item["name"]: item["data"] for item in content["outputs"]}
    assert outputs["bytes_out"] == ["a", "ü"]
    assert outputs["int64_out"] == [1, 2]
    assert content["id"]


@curl
def test_curl_gets_errors_it_can_read(every: Server) -> None:
    status, content = run("-d", "{", f"{every.url}/v2/models/every/infer")
    assert (status, set(content)) == (400, {"error"})
    status, content = run("-X", "DELETE", f"{every.url}/v2/models/every")
    assert (status, set(content)) == (405, {"error"})
    status, content = run(f"{every.url}/v2/models/%ff/ready")
    assert (status, set(content)) == (404, {"error"})


def test_heads_and_methods(every: Server) -> None:
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2",
        "/v2/",
        "/v2/models/every",
        "/metrics",
    ):
        there = httpx.get(every.url + path)
        head = httpx.head(every.url + path)
        assert (there.status_code, head.status_code, head.content) == (200, 200, b""), path
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            refused = httpx.request(method, every.url + path)
            assert refused.status_code == 405, path
            assert "GET" in refused.headers["allow"]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_gzip(every: Server, encoding: str) -> None:
    url = f"{every.url}/v2/models/every/infer"
    packed = gzip.compress(json.dumps(whole()).encode())
    answer = httpx.post(url, content=packed, headers={"content-encoding": encoding})
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    for broken, status in (
        (packed[:-9], 400),
        (b"not gzip", 400),
        (packed + b"more", 400),
        (gzip.compress(b" " * 17 * 1024**2), 413),
    ):
        answer = httpx.post(url, content=broken, headers={"content-encoding": "gzip"})
        assert answer.status_code == status, answer.text
    answer = httpx.post(url, content=packed, headers={"content-encoding": "br"})
    assert (answer.status_code, "gzip, deflate" in answer.text) == (415, True)


def test_health_of_grpc(every: Server) -> None:
    request, response = message_class("HealthCheckRequest"), message_class("HealthCheckResponse")
    with grpc.insecure_channel(f"127.0.0.1:{every.grpc_port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", request.SerializeToString, response.FromString
        )
        for service in ("", "inference.GRPCInferenceService", "every"):
            assert check(request(service=service), timeout=10).status == 1, service
        with pytest.raises(grpc.RpcError) as caught:
            check(request(service="nothing"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_services_that_are_not_there(every: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{every.grpc_port}") as channel:
        for path in (
            "/inference.GRPCInferenceService/Nothing",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.health.v1.Health/Watch",
            "/a.b/c",
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, path


def test_grpc_over_uvicorns_http_port_is_not_found(every: Server, tmp_path: Path) -> None:
    if every.kind != "uvicorn":
        pytest.skip("it has gRPC on its only port")
    path = "/inference.GRPCInferenceService/ServerLive"
    headers = {"content-type": "application/grpc"}
    answer = httpx.post(every.url + path, content=bytes(5), headers=headers)
    assert (answer.status_code, set(answer.json())) == (404, {"error"})
