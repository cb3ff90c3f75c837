"""KServe's logger events of a call decode to the rows that the server itself records."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from coalmine.records import create_collector, open_log

ROWS = np.array([[0.1, -0.2, 0.3, 0.4], [1.0, 2.0, -3.0, 1e-7], [5, 6, 7, 8]], np.float32)

#: What the logger cannot know, or sees from another place: its own clock's time, the pod.
STATED = ("time", "latency_us", "queue_us", "pod")


def _v2(*, binary_in: bool, binary_out: bool) -> tuple[bytes, dict[str, str]]:
    described: dict[str, Any] = {"name": "features", "datatype": "FP32", "shape": [3, 4]}
    raw = ROWS.tobytes()
    if binary_in:
        described["parameters"] = {"binary_data_size": len(raw)}
    else:
        described["data"] = ROWS.ravel().tolist()
    content: dict[str, Any] = {"inputs": [described]}
    if binary_out:
        content["parameters"] = {"binary_data_output": True}
    head = json.dumps(content).encode()
    if not binary_in:
        return head, {"content-type": "application/json"}
    length = {"inference-header-content-length": str(len(head))}
    return head + raw, {"content-type": "application/octet-stream", **length}


CALLS: dict[str, Callable[[], tuple[str, bytes, dict[str, str]]]] = {
    "v1": lambda: (
        "/v1/models/toy:predict",
        json.dumps({"instances": ROWS.tolist()}).encode(),
        {"content-type": "application/json"},
    ),
    "v1-columns": lambda: (
        "/v1/models/toy:predict",
        json.dumps({"inputs": {"features": ROWS.tolist()}}).encode(),
        {"content-type": "application/json"},
    ),
    "v2-json": lambda: ("/v2/models/toy/infer", *_v2(binary_in=False, binary_out=False)),
    "v2-binary-in": lambda: ("/v2/models/toy/infer", *_v2(binary_in=True, binary_out=False)),
    "v2-binary-out": lambda: ("/v2/models/toy/infer", *_v2(binary_in=False, binary_out=True)),
    "v2-binary": lambda: ("/v2/models/toy/infer", *_v2(binary_in=True, binary_out=True)),
}


def _rows(log: Any, count: int) -> dict[str, list[dict[str, Any]]]:
    """Rows by request id, without what is stated to differ."""
    deadline = time.monotonic() + 30
    found: list[dict[str, Any]] = []
    while len(found) < count and time.monotonic() < deadline:
        time.sleep(0.05)
        batches = [batch for _, batch in log.read(0, limit_rows=10_000)]
        found = [row for batch in batches for row in batch.to_pylist()]
    assert len(found) == count
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        kept = {name: value for name, value in row.items() if name not in STATED}
        by_id.setdefault(row["request_id"], []).append(kept)
    return by_id


def _event(kind: str, name: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """As KServe's agent posts it: the body as it is, with the REQUEST's content type, both times.

    That of the header's length is not an event's field; for a request it may be kept as metadata.
    """
    second = 1 if kind == "request" else 2
    return {
        "content": body,
        "headers": {
            "content-type": headers["content-type"],
            "ce-specversion": "1.0",
            "ce-id": name,
            "ce-type": f"org.kubeflow.serving.inference.{kind}",
            "ce-source": "http://localhost:9081/",
            "ce-time": f"2026-11-21T19:00:0{second}.123456789Z",
            "ce-inferenceservicename": "toy",
            "ce-namespace": "models",
            "ce-component": "predictor",
            "ce-endpoint": "",
            "ce-annotations": json.dumps({"coalmine/model-version": "3"}),
        },
    }


async def test_the_rows_are_the_same(
    start: Any, model_dir: Path, tmp_path: Path, collector: Any
) -> None:
    url, own = collector
    spool = ("--records", url, "--spool", str(tmp_path / "spool"))
    served = start(model_dir, "--version", "3", *spool)
    models = tmp_path / "models"
    shutil.copytree(model_dir, models / "3")
    with contextlib.closing(open_log(f"sqlite:///{tmp_path}/logged.db")) as logged:
        app = create_collector(logged, models=models)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client,
        ):
            for name, make in CALLS.items():
                path, body, headers = make()
                answer = httpx.post(
                    served.url + path, content=body, headers={**headers, "ce-id": name}
                )
                assert answer.status_code == 200, answer.text
                halves = [
                    _event("request", name, body, headers),
                    _event("response", name, answer.content, headers),
                ]
                if name.endswith("out"):  # they come in any order
                    halves.reverse()
                fates = [(await client.post("/v1/events", **half)).json() for half in halves]
                assert fates == [{"waiting": 1}, {"joined": 1}]
        theirs = _rows(logged, 3 * len(CALLS))
    ours = _rows(own, 3 * len(CALLS))
    assert theirs.keys() == ours.keys() == CALLS.keys()
    for name in CALLS:
        assert theirs[name] == ours[name]
    assert served.stop() == 0
