"""The same call, in every form that KServe's logger sends it, gives the rows of our own records."""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from coalmine.clock import ManualClock
from coalmine.modeldir import Column, ModelCard, Tensor, write_card
from coalmine.records import InferenceRecord, RecordLog, create_collector, record_batch

CLASSES = ("normal", "fault")
CARD = ModelCard(
    name="mixed",
    inputs=(
        Tensor(
            name="cells",
            datatype="FP32",
            shape=(-1, 3),
            columns=(Column(name="u"), Column(name="i"), Column(name="t")),
        ),
        Tensor(
            name="mode",
            datatype="BYTES",
            shape=(-1,),
            columns=(Column(name="mode", type="categorical", categories=("eco", "Straße")),),
        ),
    ),
    outputs=(
        Tensor(
            name="label",
            datatype="INT64",
            shape=(-1,),
            columns=(Column(name="label", type="categorical", categories=CLASSES),),
        ),
        Tensor(
            name="scores",
            datatype="FP32",
            shape=(-1, 2),
            columns=(Column(name="p0"), Column(name="p1")),
        ),
    ),
)
CELLS = np.array([[0.1, -2.5, 3e-7], [1.0, 2.0, 3.0]], np.float32)
MODE = np.array(["eco", "Straße"], object)
LABEL = np.array([1, 0], np.int64)
SCORES = np.array([[0.25, 0.75], [0.9, 0.1]], np.float32)
#: What the logger sees from another place, or not at all.
STATED = ("time", "latency_us", "queue_us", "pod", "request_id", "protocol")


def _texts(values: np.ndarray[Any, Any]) -> bytes:
    encoded = [str(value).encode() for value in values]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def _v2(tensors: list[tuple[str, str, Any, bool]], *, key: str) -> bytes:
    """A V2 body; tensors as (name, datatype, values, whether it is binary)."""
    described, tail = [], b""
    for name, datatype, values, is_binary in tensors:
        item: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if is_binary:
            raw = _texts(values) if datatype == "BYTES" else values.tobytes()
            item["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            item["data"] = values.ravel().tolist()
        described.append(item)
    return json.dumps({key: described}).encode() + tail


def _request_v2(cells: bool, mode: bool) -> bytes:
    tensors = [("cells", "FP32", CELLS, cells), ("mode", "BYTES", MODE, mode)]
    return _v2(tensors, key="inputs")


def _response_v2(label: bool, scores: bool) -> bytes:
    tensors = [("scores", "FP32", SCORES, scores), ("label", "INT64", LABEL, label)]
    return _v2(tensors, key="outputs")


def _padded(body: bytes) -> bytes:
    """With space around the JSON, as clients have it that give it a round length."""
    _, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return b"\n  " + body[:end] + b"    \n" + body[end:]


_INSTANCES = [
    {"cells": row.tolist(), "mode": str(mode)} for row, mode in zip(CELLS, MODE, strict=True)
]
_PREDICTIONS = [
    {"label": int(label), "scores": row.tolist()} for label, row in zip(LABEL, SCORES, strict=True)
]
BODIES: dict[str, tuple[bytes, bytes]] = {
    "v1 of objects": (
        json.dumps({"instances": _INSTANCES}).encode(),
        json.dumps({"predictions": _PREDICTIONS}).encode(),
    ),
    "v1 in columns": (
        json.dumps({"inputs": {"cells": CELLS.tolist(), "mode": MODE.tolist()}}).encode(),
        json.dumps({"outputs": {"label": LABEL.tolist(), "scores": SCORES.tolist()}}).encode(),
    ),
    "v2 of JSON": (_request_v2(False, False), _response_v2(False, False)),
    "v2 binary": (_request_v2(True, True), _response_v2(True, True)),
    "v2 binary, padded and compressed": (
        gzip.compress(_padded(_request_v2(True, True))),
        zlib.compress(_padded(_response_v2(True, True))),
    ),
    "v2, numbers binary and texts JSON": (_request_v2(True, False), _response_v2(False, True)),
    "v2, texts binary and numbers JSON": (_request_v2(False, True), _response_v2(True, False)),
}

Delivery = Callable[[bytes, bytes], list[dict[str, Any]]]


def _attributes(kind: str) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": "the-call",
        "type": f"org.kubeflow.serving.inference.{kind}",
        "source": "http://localhost:9081/",
        "time": "2026-11-21T19:00:01.123456789Z",
        "inferenceservicename": "mixed",
        "component": "predictor",
    }


def _binary_mode(kind: str, body: bytes, content_type: str) -> dict[str, Any]:
    headers = {f"ce-{name}": value for name, value in _attributes(kind).items()}
    return {"content": body, "headers": {**headers, "content-type": content_type}}


def _structured(kind: str, body: bytes, *, encoded: bool) -> dict[str, Any]:
    if encoded:
        return {**_attributes(kind), "data_base64": base64.b64encode(body).decode()}
    return {**_attributes(kind), "data": json.loads(body)}


def _post(content: Any, kind: str) -> dict[str, Any]:
    return {"content": json.dumps(content), "headers": {"content-type": f"application/{kind}+json"}}


DELIVERIES: dict[str, Delivery] = {
    "binary mode": lambda asked, answered: [
        _binary_mode("request", asked, "application/octet-stream"),
        _binary_mode("response", answered, "application/octet-stream"),
    ],
    "binary mode, the response first, with the wrong content type": lambda asked, answered: [
        _binary_mode("response", answered, "application/json"),
        _binary_mode("request", asked, "application/json"),
    ],
    "structured, base64": lambda asked, answered: [
        _post(_structured("request", asked, encoded=True), "cloudevents"),
        _post(_structured("response", answered, encoded=True), "cloudevents"),
    ],
    "batched, the response first": lambda asked, answered: [
        _post(
            [
                _structured("response", answered, encoded=True),
                _structured("request", asked, encoded=True),
            ],
            "cloudevents-batch",
        )
    ],
    "half structured, half binary mode": lambda asked, answered: [
        _post(_structured("request", asked, encoded=True), "cloudevents"),
        _binary_mode("response", answered, "application/octet-stream"),
    ],
}


def _ours() -> list[dict[str, Any]]:
    record = InferenceRecord(
        request_id="the-call",
        time=1_795_287_601.0,
        protocol="v2",
        latency_us=0,
        inputs={"cells": CELLS, "mode": MODE},
        outputs={"label": LABEL, "scores": SCORES},
        queue_us=0,
        batch_rows=2,
    )
    return record_batch([record], card=CARD, model_version="4", arm="stable").to_pylist()


def _comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key not in STATED} for row in rows]


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("form", BODIES)
async def test_every_form_in_every_delivery(
    form: str, delivery: str, log: RecordLog, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "models" / "4").mkdir(parents=True)
    write_card(tmp_path / "models" / "4", CARD)
    app = create_collector(log, clock=clock, models=tmp_path / "models")
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        for post in DELIVERIES[delivery](*BODIES[form]):
            answer = await client.post("/v1/events", **post)
            assert answer.status_code == 200, answer.text
    rows = [row for _, batch in log.read(0, limit_rows=100) for row in batch.to_pylist()]
    assert _comparable(rows) == _comparable(_ours())


async def test_json_inside_a_structured_event(
    log: RecordLog, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "models" / "4").mkdir(parents=True)
    write_card(tmp_path / "models" / "4", CARD)
    app = create_collector(log, clock=clock, models=tmp_path / "models")
    transport = httpx.ASGITransport(app)
    batch = [
        _structured(kind, body, encoded=False)
        for kind, body in zip(("request", "response"), BODIES["v1 of objects"], strict=True)
    ]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        answer = await client.post("/v1/events", **_post(batch, "cloudevents-batch"))
        assert answer.json() == {"waiting": 1, "joined": 1}
    rows = [row for _, found in log.read(0, limit_rows=100) for row in found.to_pylist()]
    assert _comparable(rows) == _comparable(_ours())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (gzip.compress(b"{}")[:-4], "ends too early"),
        (b"\x1f\x8b" + b"no gzip", "not what its compression says"),
        (zlib.compress(b" " * (64 * 1024**2 + 1)), "inflates to more than"),
    ],
)
async def test_a_wrong_compression_is_undecodable(
    body: bytes, told: str, log: RecordLog, clock: ManualClock
) -> None:
    app = create_collector(log, clock=clock)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        for kind in ("request", "response"):
            post = _binary_mode(kind, body, "application/json")
            answer = await client.post("/v1/events", **post)
    assert answer.json() == {"undecodable": 1}
    ((_, batch),) = log.read(0, limit_rows=10)
    assert told in batch.column("error")[0].as_py()


async def test_a_missing_number_that_is_no_json(
    log: RecordLog, clock: ManualClock, tmp_path: Path
) -> None:
    """Some of the servers that KServe runs write NaN."""
    (tmp_path / "models" / "4").mkdir(parents=True)
    write_card(tmp_path / "models" / "4", CARD)
    app = create_collector(log, clock=clock, models=tmp_path / "models")
    asked, answered = BODIES["v1 of objects"]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        for kind, body in (("request", asked), ("response", answered.replace(b"0.25", b"NaN"))):
            answer = await client.post("/v1/events", **_binary_mode(kind, body, ""))
    assert answer.json() == {"joined": 1}
    ((_, batch),) = log.read(0, limit_rows=10)
    first, second = batch.column("p0").to_pylist()
    assert math.isnan(first)
    assert second == np.float32(0.9)
