"""Calls as KServe's logger tells them, and a collector that hears of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from coalmine.clock import ManualClock
from coalmine.records import RecordLog, create_collector

REQUEST = {"instances": [[0.5] * 24, [1.5] * 24]}
RESPONSE = {
    "predictions": [
        {"label": 1, "probabilities": [0.1, 0.8, 0.1]},
        {"label": 2, "probabilities": [0.1, 0.1, 0.8]},
    ]
}


@asynccontextmanager
async def collecting(log: Any, clock: ManualClock, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_collector(log, clock=clock, **more)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        yield client


def headers_of(kind: str, name: str = "a", **more: str) -> dict[str, str]:
    second = 1 if kind == "request" else 2
    return {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": name,
        "ce-type": f"org.kubeflow.serving.inference.{kind}",
        "ce-source": "pod-1",
        "ce-time": f"2026-11-21T19:00:0{second}.5Z",
        "ce-inferenceservicename": "ev-battery",
        "ce-component": "predictor",
        **{f"ce-{key}": value for key, value in more.items()},
    }


def structured(kind: str, name: str, data: Any, **more: Any) -> dict[str, Any]:
    attributes = {
        key.removeprefix("ce-"): value
        for key, value in headers_of(kind, name).items()
        if key.startswith("ce-")
    }
    return {**attributes, "datacontenttype": "application/json", "data": data, **more}


async def send(
    client: httpx.AsyncClient, kind: str, content: Any, name: str = "a", **more: str
) -> Any:
    return await client.post("/v1/events", json=content, headers=headers_of(kind, name, **more))


def rows_of(log: RecordLog) -> list[dict[str, Any]]:
    return [row for _, batch in log.read(0, limit_rows=10_000) for row in batch.to_pylist()]


def v2_request() -> dict[str, Any]:
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 24], "data": [0.5] * 48}
    return {"inputs": [tensor]}
