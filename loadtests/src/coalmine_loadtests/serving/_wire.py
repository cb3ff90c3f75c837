"""How rows become the bytes of a request, and the bytes of an answer become rows again.

`V2` is the Open Inference Protocol, in JSON, with the binary tensor extension, and in gRPC. `PLAIN`
is what the frameworks that leave the protocol to the user are given: `{"input": [[...]]}` answered
by `{"output": [[...]]}` or the list alone, or the raw little-endian FP32 values both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._errors import WrongAnswerError
from coalmine_loadtests.serving._models import INPUT, MODELS, OUTPUT, FloatArray

__all__ = ["GRPC_PATH", "PLAIN", "V2", "PlainWire", "Request", "V2Wire", "Wire"]

GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
_JSON = {"content-type": "application/json"}
_BYTES = {"content-type": "application/octet-stream"}
_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Request:
    """A POST, or the message of a unary gRPC call."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Wire(Protocol):
    """One way to write requests; a server is asked in the best one that it understands."""

    def request(self, cell: Cell, rows: FloatArray) -> Request:
        """What a client sends for these rows."""
        ...

    def answer(self, cell: Cell, headers: Mapping[str, str], body: bytes) -> FloatArray:
        """`[rows, *answer]` of a 200's body; `WrongAnswerError` if they cannot be read there."""
        ...


class V2Wire:
    """The Open Inference Protocol."""

    def request(self, cell: Cell, rows: FloatArray) -> Request:
        """See `Wire`; with the extension binary outputs are asked for too."""
        if cell.protocol == "grpc":
            return Request(GRPC_PATH, _grpc_request(cell, rows))
        path = f"/v2/models/{cell.model}/infer"
        tensor: dict[str, Any] = {"name": INPUT, "shape": list(rows.shape), "datatype": "FP32"}
        if cell.protocol == "json":
            body = {"inputs": [tensor | {"data": _short(rows.ravel())}]}
            return Request(path, orjson.dumps(body), _JSON)
        raw = rows.astype("<f4").tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        asked = {"name": OUTPUT, "parameters": {"binary_data": True}}
        head = orjson.dumps({"inputs": [tensor], "outputs": [asked]})
        return Request(path, head + raw, _BYTES | {_LENGTH: str(len(head))})

    def answer(self, cell: Cell, headers: Mapping[str, str], body: bytes) -> FloatArray:
        """See `Wire`."""
        return _read(cell, _grpc_answer if cell.protocol == "grpc" else _v2_answer, headers, body)


class PlainWire:
    """Rows as nested lists, or as their bytes at a path of its own."""

    def request(self, cell: Cell, rows: FloatArray) -> Request:
        """See `Wire`."""
        if cell.protocol == "binary":
            return Request("/predict_bytes", rows.astype("<f4").tobytes(), _BYTES)
        nested = [_short(row) for row in rows]
        return Request("/predict", orjson.dumps({"input": nested}), _JSON)

    def answer(self, cell: Cell, headers: Mapping[str, str], body: bytes) -> FloatArray:
        """See `Wire`."""
        return _read(cell, _plain_answer, headers, body)


V2: Wire = V2Wire()
PLAIN: Wire = PlainWire()

_Reader = Callable[[Cell, Mapping[str, str], bytes], Any]


def _read(cell: Cell, read: _Reader, headers: Mapping[str, str], body: bytes) -> FloatArray:
    try:
        values = np.asarray(read(cell, headers, body), np.float32)
        return values.reshape(cell.rows, *MODELS[cell.model].answer)
    except Exception as error:  # whatever a server can write
        raise WrongAnswerError(
            f"cannot read the answer: {type(error).__name__}: {error}: {body[:200]!r}"
        ) from error


def _short(values: FloatArray) -> list[float]:
    """As a client would write them: four decimals, not the nearest double of the FP32 value."""
    return [round(value, 4) for value in values.tolist()]


def _v2_answer(cell: Cell, headers: Mapping[str, str], body: bytes) -> Any:
    length = headers.get(_LENGTH)
    content = orjson.loads(body[: len(body) if length is None else int(length)])
    output = content["outputs"][0]
    if output["name"] != OUTPUT or output["shape"] != [cell.rows, *MODELS[cell.model].answer]:
        raise ValueError(f"output {output['name']!r} of shape {output['shape']}")
    if "data" in output:
        return output["data"]
    assert length is not None
    return np.frombuffer(body[int(length) :], "<f4")


def _plain_answer(cell: Cell, headers: Mapping[str, str], body: bytes) -> Any:
    if cell.protocol == "binary":
        return np.frombuffer(body, "<f4")
    content = orjson.loads(body)
    return content["output"] if isinstance(content, dict) else content


def _grpc_request(cell: Cell, rows: FloatArray) -> bytes:
    from coalmine.protocol.protobuf import message_class

    request = message_class("ModelInferRequest")(model_name=cell.model)
    request.inputs.add(name=INPUT, datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.astype("<f4").tobytes())
    body: bytes = request.SerializeToString()
    return body


def _grpc_answer(cell: Cell, headers: Mapping[str, str], body: bytes) -> Any:
    from coalmine.protocol.protobuf import message_class

    response = message_class("ModelInferResponse").FromString(body)
    (output,) = response.outputs
    if list(output.shape) != [cell.rows, *MODELS[cell.model].answer]:
        raise ValueError(f"output of shape {list(output.shape)}")
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], "<f4")
    return output.contents.fp32_contents
