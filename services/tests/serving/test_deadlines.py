"""Deadlines: who cannot be answered in time is told so, in time, and costs the model nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from coalmine.protocol.protobuf import message_class
from coalmine.serving._deadline import header_timeout

MOODY = ("--transformer", "moody:Moody", "--inline", "never")


def v2(wait: float, **parameters: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "raw", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]},
            {"name": "wait", "shape": [1], "datatype": "FP32", "data": [wait]},
        ],
        "parameters": parameters,
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, math.inf),
        ({b"grpc-timeout": b"2H"}, 7200),
        ({b"grpc-timeout": b"1500u"}, 0.0015),
        ({b"x-envoy-expected-rq-timeout-ms": b"250"}, 0.25),
        ({b"x-envoy-expected-rq-timeout-ms": b"0"}, math.inf),
        ({b"x-envoy-expected-rq-timeout-ms": b"250", b"grpc-timeout": b"1S"}, 0.25),
        ({b"grpc-timeout": b"-1S"}, math.inf),
        ({b"grpc-timeout": b"S"}, math.inf),
        ({b"grpc-timeout": b"10"}, math.inf),
        ({b"grpc-timeout": b""}, math.inf),
        ({b"grpc-timeout": b"999999999S"}, math.inf),
        ({b"x-envoy-expected-rq-timeout-ms": b"soon"}, math.inf),
        ({b"x-envoy-expected-rq-timeout-ms": b"9" * 5000}, math.inf),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_the_headers_leave(headers: dict[bytes, bytes], seconds: float) -> None:
    assert header_timeout(headers) == pytest.approx(seconds)


@pytest.fixture(scope="module")
def moody(start: Any, model_dir: Path) -> Any:
    return start(model_dir, *MOODY)


@pytest.fixture
async def busy(moody: Any, client: httpx.AsyncClient) -> AsyncIterator[Any]:
    """The server, its model occupied for a while."""
    url = f"{moody.url}/v2/models/toy/infer"
    long = asyncio.create_task(client.post(url, json=v2(1.5)))
    async with asyncio.timeout(10):
        while "coalmine_inflight_requests" not in (
            text := (await client.get(f"{moody.url}/metrics")).text
        ) or not any(
            line.startswith("coalmine_inflight_requests") and line.endswith(" 1.0")
            for line in text.splitlines()
        ):
            await asyncio.sleep(0.01)
    yield moody
    assert (await long).status_code == 200, "who was there first is not disturbed"


async def _shed(client: httpx.AsyncClient, url: str) -> float:
    for line in (await client.get(f"{url}/metrics")).text.splitlines():
        if line.startswith("coalmine_requests_shed_total") and 'reason="deadline"' in line:
            return float(line.split()[-1])
    return 0.0


async def test_over_rest_it_is_504_and_counted(busy: Any, client: httpx.AsyncClient) -> None:
    before = await _shed(client, busy.url)
    url = f"{busy.url}/v2/models/toy/infer"
    answers = await asyncio.gather(
        client.post(url, json=v2(0.0, timeout=50_000)),
        client.post(url, json=v2(0.0), headers={"x-envoy-expected-rq-timeout-ms": "50"}),
        client.post(
            f"{busy.url}/v1/models/toy:predict",
            json={"instances": [{"raw": [1, 2, 3, 4], "wait": 0}]},
            headers={"x-envoy-expected-rq-timeout-ms": "50"},
        ),
        client.post(url, json=v2(0.0, timeout=60_000_000)),
        client.post(url, json=v2(0.0, timeout=0)),
    )
    assert [answer.status_code for answer in answers] == [504, 504, 504, 200, 200]
    assert "no time was left" in answers[0].json()["error"]
    assert answers[0].headers["x-request-id"]
    assert await _shed(client, busy.url) == before + 3


async def test_over_grpc_it_is_deadline_exceeded(busy: Any) -> None:
    request = message_class("ModelInferRequest")(model_name="toy")
    request.inputs.add(name="raw", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(
        [1, 2, 3, 4]
    )
    request.inputs.add(name="wait", datatype="FP32", shape=[1]).contents.fp32_contents.append(0)
    request.parameters["timeout"].int64_param = 50_000
    async with grpc.aio.insecure_channel(f"127.0.0.1:{busy.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no time was left" in (caught.value.details() or "")


@pytest.mark.parametrize("timeout", [-1, 1.5, "soon", True], ids=str)
async def test_a_timeout_that_is_none_is_refused(
    moody: Any, client: httpx.AsyncClient, timeout: Any
) -> None:
    answer = await client.post(f"{moody.url}/v2/models/toy/infer", json=v2(0.0, timeout=timeout))
    assert answer.status_code == 400
    assert "timeout" in answer.json()["error"]


async def test_the_servers_own_limit(
    start: Any, model_dir: Path, client: httpx.AsyncClient
) -> None:
    served = start(model_dir, *MOODY, "--request-timeout", "0.2")
    url = f"{served.url}/v2/models/toy/infer"
    slow, quick = await asyncio.gather(
        client.post(url, json=v2(0.6)), client.post(url, json=v2(0.0, timeout=60_000_000))
    )
    assert slow.status_code == 504, "also while it runs"
    assert quick.status_code in (200, 504)  # it may have met the slow one in a batch
    assert (await client.post(url, json=v2(0.0))).status_code in (200, 504)
    await asyncio.sleep(0.6)
    assert (await client.post(url, json=v2(0.0))).status_code == 200
