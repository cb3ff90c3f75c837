"""Requests and answers as bytes: KServe V1, V2 JSON, and V2 over gRPC with raw contents.

    WireError      an answer that is not what its protocol says

Raw tensors are float32 with the batch first; the answer that matters is the INT64 tensor `label`.
The protobuf messages are `ModelInferRequest` and `ModelInferResponse` of the Open Inference
Protocol; five fields of them are all that is needed, so they are written and read by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

__all__ = [
    "GRPC_METHOD",
    "WireError",
    "grpc_answer",
    "grpc_request",
    "http_path",
    "v1_answer",
    "v1_request",
    "v2_answer",
    "v2_request",
]

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"

Windows = Mapping[str, NDArray[np.float32]]
Labels = NDArray[np.int64]


class WireError(ValueError):
    """An answer that is not what its protocol says."""


def http_path(model: str, protocol: Literal["v1", "v2"]) -> str:
    """The path that a model is asked at.

    >>> http_path("ev-battery", "v1"), http_path("ev-battery", "v2")
    ('/v1/models/ev-battery:predict', '/v2/models/ev-battery/infer')
    """
    return f"/v1/models/{model}:predict" if protocol == "v1" else f"/v2/models/{model}/infer"


def v1_request(windows: Windows) -> bytes:
    """`{"instances": [{tensor: value, ...}, ...]}`; a window is an object of nested lists."""
    count = len(next(iter(windows.values())))
    columns = {name: np.ascontiguousarray(array) for name, array in windows.items()}
    instances = [
        {name: _json_value(array[row]) for name, array in columns.items()} for row in range(count)
    ]
    return orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY)


def _json_value(value: Any) -> Any:
    """An array as itself, a numpy scalar as a number: orjson writes no zero-dimensional array."""
    return value if isinstance(value, np.ndarray) and value.ndim else float(value)


def v1_answer(body: bytes) -> Labels:
    """The labels of `{"predictions": [{"label": 0, ...}, ...]}`."""
    try:
        predictions = orjson.loads(body)["predictions"]
        return np.array([int(p["label"]) for p in predictions], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a V1 answer with `label`: {body[:200]!r}") from error


def v2_request(windows: Windows, *, request_id: str = "") -> bytes:
    """The V2 JSON request, tensors as flat lists; a missing reading (NaN) is a null."""
    inputs = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": list(array.shape),
            "data": np.ascontiguousarray(array, dtype=np.float32).ravel(),
        }
        for name, array in windows.items()
    ]
    content = {"id": request_id, "inputs": inputs} if request_id else {"inputs": inputs}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def v2_answer(body: bytes) -> Labels:
    """The labels of a V2 JSON answer."""
    try:
        outputs = {tensor["name"]: tensor for tensor in orjson.loads(body)["outputs"]}
        return np.array(outputs["label"]["data"], dtype=np.int64).ravel()
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a V2 answer with `label`: {body[:200]!r}") from error


def grpc_request(windows: Windows, *, model: str, request_id: str = "") -> bytes:
    """A `ModelInferRequest` with raw contents."""
    parts = [_field(1, model.encode())]
    if request_id:
        parts.append(_field(3, request_id.encode()))
    for name, array in windows.items():
        shape = b"".join(_varint(size) for size in array.shape)
        tensor = _field(1, name.encode()) + _field(2, b"FP32") + _field(3, shape)
        parts.append(_field(5, tensor))
    parts += [_field(7, array.astype("<f4", order="C").tobytes()) for array in windows.values()]
    return b"".join(parts)


def grpc_answer(body: bytes) -> Labels:
    """The labels of a `ModelInferResponse` with raw contents."""
    names: list[str] = []
    contents: list[bytes] = []
    try:
        for number, value in _fields(body):
            if number == 5:
                names += [inner.decode() for field, inner in _fields(value) if field == 1]
            elif number == 6:
                contents.append(value)
        raw = contents[names.index("label")]
        return np.frombuffer(raw, dtype="<i8").astype(np.int64)
    except (IndexError, ValueError) as error:
        raise WireError(f"not a ModelInferResponse with a raw `label`: {body[:80]!r}") from error


_LENGTH_DELIMITED = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; the other kinds are stepped over."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _read_varint(message, at)
            if at + length > len(message):
                raise ValueError("a field is longer than its message")
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind == 0:
            _, at = _read_varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} is not of proto3")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a varint is longer than ten bytes")
