"""`docs/protocol.md`, row by row: the same mistake has the same answer in JSON, binary and gRPC.

The table there is read by this test: a row that says something else than the server does fails.
"""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest

from coalmine.protocol.protobuf import message_class

from ..servers import MIXED, Server, identity, serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
INFER = "/inference.GRPCInferenceService/ModelInfer"
DTYPES = {"FP32": "f4", "FP16": "f2", "INT64": "i8", "UINT8": "u1", "BOOL": "?"}
FIELDS = {"FP32": "fp32", "INT64": "int64", "UINT8": "uint", "BOOL": "bool", "BYTES": "bytes"}
Request = dict[str, Any]


def good() -> Request:
    """Two rows of everything; `path` is what comes after `/v2/models/`."""
    data: dict[str, Any] = {
        "features": [1, 2, 3, 4, 5, 6, 7, 8],
        "count": [2**53 + 1, -1],
        "small": [0, 255, 1, 2],
        "text": ["ä", ""],
        "half": [0.5, -1.5],
        "flag": [True, False],
    }
    inputs = [
        {"name": n, "datatype": kind, "shape": [2, *rest], "data": data[n]}
        for n, kind, (_, *rest) in MIXED
    ]
    return {"name": "mixed", "version": "", "body": {"inputs": inputs}}


def _set(number: int, **values: Any) -> Callable[[Request], None]:
    return lambda request: request["body"]["inputs"][number].update(values)


def _body(**values: Any) -> Callable[[Request], None]:
    return lambda request: request["body"].update(values)


def _every_row(rows: int) -> Callable[[Request], None]:
    def change(request: Request) -> None:
        for item in request["body"]["inputs"]:
            width = int(np.prod(item["shape"][1:]))
            item["shape"][0] = rows
            item["data"] = item["data"][: rows * width]

    return change


def _top(**values: Any) -> Callable[[Request], None]:
    return lambda request: request.update(values)


FEATURES, COUNT, SMALL, TEXT, HALF, FLAG = range(6)
#: Key of a row of the document: what is done to a good request.
MISTAKES: dict[str, Callable[[Request], None]] = {
    "good": _body(),
    "id": _body(id="mine"),
    "one-row": _every_row(1),
    "empty-batch": _every_row(0),
    "unknown-parameter": _body(parameters={"colour": "blue"}),
    "chosen-outputs": _body(outputs=[{"name": "text_out"}, {"name": "count_out"}]),
    "nan": _set(FEATURES, data=[None, 2, 3, 4, 5, 6, 7, 8]),
    "infinity": _set(FEATURES, data=[float("inf"), 2, 3, 4, 5, 6, 7, 8]),
    "unknown-model": _top(name="other"),
    "unknown-version": _top(version="7"),
    "unknown-input": lambda r: r["body"]["inputs"].append(
        {"name": "more", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    ),
    "missing-input": lambda r: r["body"]["inputs"].pop(),
    "no-inputs": _body(inputs=[]),
    "doubled-input": lambda r: r["body"]["inputs"].append(copy.deepcopy(r["body"]["inputs"][0])),
    "wrong-datatype": _set(COUNT, datatype="INT32"),
    "no-such-datatype": _set(COUNT, datatype="int"),
    "wrong-rank": _set(FEATURES, shape=[8]),
    "wrong-shape": _set(FEATURES, shape=[4, 2]),
    "negative-size": _set(FEATURES, shape=[-2, 4]),
    "overflowing-size": _set(FEATURES, shape=[2**62, 4]),
    "hollow": _set(FEATURES, shape=[0, 2**62], data=[]),
    "too-few-values": _set(FEATURES, data=[1, 2, 3, 4, 5, 6, 7]),
    "too-many-values": _set(FEATURES, data=[1, 2, 3, 4, 5, 6, 7, 8, 9]),
    "other-batch": _set(COUNT, shape=[3], data=[1, 2, 3]),
    "unknown-output": _body(outputs=[{"name": "nothing"}]),
    "doubled-output": _body(outputs=[{"name": "text_out"}, {"name": "text_out"}]),
    "classification": _body(
        outputs=[{"name": "features_out", "parameters": {"classification": 2}}]
    ),
    "shared-memory": _set(FEATURES, parameters={"shared_memory_region": "r"}),
    "sequence": _body(parameters={"sequence_id": 3}),
    # Of JSON alone.
    "string-for-number": _set(COUNT, data=["1", 2]),
    "boolean-for-number": _set(COUNT, data=[True, 2]),
    "number-for-boolean": _set(FLAG, data=[1, 0]),
    "number-for-text": _set(TEXT, data=[1, "a"]),
    "fraction-for-integer": _set(COUNT, data=[1.5, 2]),
    "whole-with-a-point": _set(COUNT, data=[1.0, 2]),
    "null-for-integer": _set(COUNT, data=[None, 2]),
    "too-large": _set(SMALL, data=[0, 256, 1, 2]),
    "too-large-float": _set(HALF, data=[70000, 1]),
    "beyond-64-bits": _set(COUNT, data=[2**64, 1]),
    "nested": _set(FEATURES, data=[[1, 2, 3, 4], [5, 6, 7, 8]]),
    "nested-otherwise": _set(FEATURES, data=[[1, 2], [3, 4], [5, 6], [7, 8]]),
    "ragged": _set(FEATURES, data=[[1, 2, 3, 4], [5, 6, 7]]),
    "id-not-a-string": _body(id=5),
    "no-data": lambda r: r["body"]["inputs"][0].pop("data"),
}


def rows() -> Iterator[tuple[str, dict[str, str]]]:
    """Key and cells of each row of the document's tables: `key | ... | JSON | binary | gRPC |`."""
    for line in DOCUMENT.read_text("utf-8").splitlines():
        match = re.match(r"\| `([a-z0-9-]+)` \|.*\| (\S+) \| (\S+) \| (\S+) \|$", line)
        if match:
            yield match[1], {"json": match[2], "binary": match[3], "grpc": match[4]}


ROWS = dict(rows())


def test_every_case_is_documented_and_every_row_is_tried() -> None:
    assert list(ROWS) == list(MISTAKES)


@pytest.fixture(scope="module", params=["native", "uvicorn"])
def mixed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp(f"semantics-{request.param}")
    model = identity(directory / "mixed.onnx", MIXED)
    with serving(model, directory / "log", kind=request.param) as server:
        yield server
        assert "Traceback" not in server.text


def _raw(item: dict[str, Any]) -> bytes:
    if item["name"] == "text":
        parts = [text.encode() for text in item["data"]]
        return b"".join(struct.pack("<I", len(part)) + part for part in parts)
    kind = dict((name, datatype) for name, datatype, _ in MIXED).get(item["name"], "FP32")
    values = [np.nan if value is None else value for value in item["data"]]
    return np.array(values, dtype=DTYPES[kind]).tobytes()


def _path(request: Request) -> str:
    version = f"/versions/{request['version']}" if request["version"] else ""
    return f"/v2/models/{request['name']}{version}/infer"


def _json(content: Any) -> bytes:
    """JSON with integers of any size; infinity, which it has no word for, is `null`."""
    return json.dumps(content).replace("Infinity", "null").encode()


def ask_json(server: Server, request: Request) -> tuple[int, Any]:
    answer = httpx.post(server.url + _path(request), content=_json(request["body"]))
    return answer.status_code, answer.json()


def ask_binary(server: Server, request: Request) -> tuple[int, Any]:
    body = copy.deepcopy(request["body"])
    blobs = []
    for item in body["inputs"]:
        blobs.append(_raw(item))
        item.setdefault("parameters", {})["binary_data_size"] = len(blobs[-1])
        del item["data"]
    head = orjson.dumps(body)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = httpx.post(
        server.url + _path(request), content=head + b"".join(blobs), headers=headers
    )
    return answer.status_code, answer.json()


def ask_grpc(server: Server, request: Request) -> tuple[int, Any]:
    body = request["body"]
    message = message_class("ModelInferRequest")(
        model_name=request["name"], model_version=request["version"], id=body.get("id", "")
    )

    def parameters(target: Any, values: dict[str, Any]) -> None:
        for key, value in values.items():
            field = "string_param" if isinstance(value, str) else "int64_param"
            setattr(target.parameters[key], field, value)

    parameters(message, body.get("parameters", {}))
    for item in body["inputs"]:
        tensor = message.inputs.add(
            name=item["name"], datatype=item["datatype"], shape=item["shape"]
        )
        parameters(tensor, item.get("parameters", {}))
        message.raw_input_contents.append(_raw(item))
    for item in body.get("outputs", ()):
        parameters(message.outputs.add(name=item["name"]), item.get("parameters", {}))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(INFER).future(message.SerializeToString(), timeout=20)
        if call.code() is not grpc.StatusCode.OK:
            return call.code().value[0], {"error": call.details()}
        answer = message_class("ModelInferResponse").FromString(call.result())
    return 0, {"id": answer.id, "outputs": [{"name": o.name} for o in answer.outputs]}


ASK = {"json": ask_json, "binary": ask_binary, "grpc": ask_grpc}
CASES = [
    (key, how, cell) for key, cells in ROWS.items() for how, cell in cells.items() if cell != "-"
]


@pytest.mark.parametrize(("key", "how", "cell"), CASES, ids=[f"{k}-{h}" for k, h, _ in CASES])
def test_row(mixed: Server, key: str, how: str, cell: str) -> None:
    request = good()
    MISTAKES[key](request)
    status, content = ASK[how](mixed, request)
    assert status == int(cell), content
    if status in (0, 200):
        assert content["id"] == request["body"].get("id", content["id"])
        assert content["id"]
        wanted = [item["name"] for item in request["body"].get("outputs", ())]
        names = [item["name"] for item in content["outputs"]]
        assert names == (wanted or [f"{name}_out" for name, _, _ in MIXED])
    else:
        assert content["error"]
