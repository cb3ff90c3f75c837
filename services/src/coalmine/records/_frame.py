"""Frames: how records lie in the spool, and how they become Arrow batches.

A frame is `length, crc32, payload`, and holds the requests of one batch: their number and rows, a
fixed head for each, their ids, their errors, and the tensors of all rows as they are in memory, in
the order of the card. Encoding is on the hot path of a prediction, so it is paid per batch, copies
nothing large, and knows nothing of columns; decoding happens in the shipper, many frames at once.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import ModelCard
from coalmine.records._errors import SchemaError
from coalmine.records._schema import record_schema
from coalmine.records._types import AnsweredRequest, InferenceRecord

__all__ = [
    "GROUP",
    "HEAD",
    "HEAD_DTYPE",
    "PREFIX",
    "PROTOCOLS",
    "Frame",
    "Layout",
    "Scan",
    "first_payload",
    "frame",
    "framed",
    "scan",
]

PREFIX = struct.Struct("<II")  # payload length, crc32 of the payload
GROUP = struct.Struct("<II")  # requests in the frame, and their rows
HEAD = struct.Struct("<qqqIihBBHH")
HEAD_DTYPE = np.dtype(
    [
        ("time", "<i8"),
        ("latency_us", "<i8"),
        ("queue_us", "<i8"),
        ("rows", "<u4"),
        ("batch_rows", "<i4"),
        ("status", "<i2"),
        ("protocol", "u1"),
        ("answered", "u1"),
        ("id_length", "<u2"),
        ("error_length", "<u2"),
    ]
)
#: Of the frames themselves; a file of another version cannot be read, and counts as corrupt.
_VERSION = 2

PROTOCOLS = ("v1", "v2", "grpc")
_PROTOCOL_CODES = {name: code for code, name in enumerate(PROTOCOLS)}

_MAX_TEXT = 2**16 - 1
#: A payload of fewer bytes, or of more pieces, is written in one piece: copying it costs less.
_SMALL, _PIECES = 32 * 1024, 64

_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    "BYTES": "O",
}  # fmt: skip


class _Tensor(NamedTuple):
    """A tensor that is recorded; one of strings (dtype object) goes as JSON behind the others."""

    name: str
    output: bool
    dtype: np.dtype[Any]
    width: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Which tensors a frame holds, and the columns that are the same in all frames of a file."""

    card: ModelCard
    model_version: str
    arm: str
    pod: str
    schema: pa.Schema
    plain: tuple[_Tensor, ...]
    texts: tuple[_Tensor, ...]

    @classmethod
    def of(cls, card: ModelCard, *, model_version: str, arm: str, pod: str) -> Layout:
        """The layout for a model; SchemaError if its card makes no record."""
        schema = record_schema(card)
        sides = itertools.chain(
            ((tensor, False) for tensor in card.inputs), ((tensor, True) for tensor in card.outputs)
        )
        tensors = [
            _Tensor(
                name=tensor.name,
                output=output,
                dtype=np.dtype(_DTYPES[tensor.datatype]),
                width=len(tensor.columns),
                columns=tuple(column.name for column in tensor.columns),
            )
            for tensor, output in sides
            if tensor.columns
        ]
        return cls(
            card=card,
            model_version=model_version,
            arm=arm,
            pod=pod,
            schema=schema,
            plain=tuple(tensor for tensor in tensors if tensor.dtype != object),
            texts=tuple(tensor for tensor in tensors if tensor.dtype == object),
        )

    def dump(self) -> bytes:
        """The layout as a payload, so that a file of frames describes itself."""
        content = {
            "card": self.card.model_dump(mode="json"),
            "model_version": self.model_version,
            "arm": self.arm,
            "pod": self.pod,
            "version": _VERSION,
        }
        return json.dumps(content).encode()

    @classmethod
    def load(cls, payload: bytes) -> Layout:
        """Read what `dump` wrote; SchemaError if it is something else."""
        try:
            content = json.loads(payload)
            if (version := content.pop("version", 1)) != _VERSION:
                raise SchemaError(f"records of version {version}, not {_VERSION}")
            card = ModelCard.model_validate(content.pop("card"))
            return cls.of(card, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SchemaError(f"not the layout of records: {error}") from error

    def encode(self, record: InferenceRecord) -> Frame:
        """The frame of a record. Raises whatever a wrong record provokes."""
        answered = record.outputs is not None
        request = AnsweredRequest(
            record.request_id,
            record.time,
            record.protocol,
            record.latency_us,
            len(next(iter(record.inputs.values()))) if answered else 1,
            record.queue_us,
        )
        tensors = []
        if record.outputs is not None:
            tensors = self._encode_tensors(record.inputs, record.outputs, rows=request.rows)
        error = b"" if record.error is None else _encoded(record.error)
        return _assemble(
            [request], tensors, answered, record.batch_rows, status=record.status, error=error
        )

    def encode_batch(
        self,
        requests: Sequence[AnsweredRequest],
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        *,
        batch_rows: int,
    ) -> Frame:
        """The frame of requests that were answered together; the tensors hold all their rows."""
        rows = sum([request.rows for request in requests])
        tensors = self._encode_tensors(inputs, outputs, rows=rows)
        return _assemble(requests, tensors, True, batch_rows)

    def _encode_tensors(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, rows: int
    ) -> list[Any]:
        parts: list[Any] = []
        for name, output, dtype, width, _ in self.plain:
            array = outputs[name] if output else inputs[name]
            if array.dtype != dtype:
                array = array.astype(dtype)
            if array.size != rows * width:
                raise ValueError(f"{name}: {array.shape} is not {rows} rows of {width}")
            parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        if self.texts:
            parts.append(self._encode_texts(inputs, outputs, rows=rows))
        return parts

    def _encode_texts(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, rows: int
    ) -> bytes:
        texts = []
        for tensor in self.texts:
            array = (outputs if tensor.output else inputs)[tensor.name]
            if array.size != rows * tensor.width:
                raise ValueError(f"{tensor.name}: {array.shape} is not {rows} rows")
            texts.append([_text(value) for value in array.ravel().tolist()])
        return json.dumps(texts).encode()


def _assemble(
    requests: Sequence[AnsweredRequest],
    tensors: list[Any],
    answered: bool,
    batch_rows: int,
    *,
    status: int = 200,
    error: bytes = b"",
) -> Frame:
    """A frame; `error` is that of the only request."""
    ids = [_encoded(request[0]) for request in requests]
    heads = []
    total = 0
    for (_, time, protocol, latency_us, rows, queue_us), identifier in zip(
        requests, ids, strict=True
    ):
        if rows < 1:
            raise ValueError("a record of no instances")
        total += rows
        heads.append(
            HEAD.pack(
                int(time * 1_000_000),
                latency_us,
                queue_us,
                rows,
                batch_rows,
                status,
                _PROTOCOL_CODES[protocol],
                answered,
                len(identifier),
                len(error),
            )
        )
    top = b"".join((GROUP.pack(len(requests), total), *heads, *ids, error))
    return framed([top, *tensors], total)


class Frame(NamedTuple):
    """A frame as it is written: pieces to be put one after another."""

    parts: Sequence[Any]
    """The length and checksum, then the payload."""

    size: int
    """Bytes of all parts."""

    rows: int

    def tobytes(self) -> bytes:
        """The frame in one piece."""
        return b"".join(self.parts)


class Scan(NamedTuple):
    """The whole frames at the beginning of some bytes."""

    starts: list[int]
    """Where each frame begins."""

    rows: int
    end: int
    """Where the last whole frame ends; beyond it is a torn frame, or nothing."""


def frame(payload: bytes) -> bytes:
    """A payload with its length and checksum in front."""
    return framed([payload], 0).tobytes()


def framed(payload: Sequence[Any], rows: int) -> Frame:
    """The frame of a payload in pieces of bytes."""
    length = sum(map(len, payload))
    if length < _SMALL or len(payload) > _PIECES:
        payload = [b"".join(payload)]
    checksum = 0
    for part in payload:
        checksum = crc32(part, checksum)
    return Frame((PREFIX.pack(length, checksum), *payload), length + PREFIX.size, rows)


def first_payload(data: bytes) -> bytes | None:
    """The payload of the first frame, None if that is torn."""
    found = scan(data, max_frames=1)
    return data[PREFIX.size : found.end] if found.starts else None


def scan(
    data: bytes | memoryview,
    *,
    start: int = 0,
    max_rows: int = 2**62,
    max_bytes: int = 2**62,
    max_frames: int = 2**62,
) -> Scan:
    """Find frames from `start` until one is torn or a bound is exceeded (but at least one)."""
    view = memoryview(data)
    starts: list[int] = []
    rows, position, end = 0, start, len(view)
    while position + PREFIX.size <= end and len(starts) < max_frames:
        length, checksum = PREFIX.unpack_from(view, position)
        stop = position + PREFIX.size + length
        if length < 1 or stop > end or crc32(view[position + PREFIX.size : stop]) != checksum:
            break
        count = GROUP.unpack_from(view, position + PREFIX.size)[1] if length >= GROUP.size else 0
        if starts and (rows + count > max_rows or stop - start > max_bytes):
            break
        starts.append(position)
        rows += count
        position = stop
    return Scan(starts, rows, position)


def _encoded(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_TEXT:
        return data
    return data[:_MAX_TEXT].decode("utf-8", "ignore").encode()  # a character may have been cut


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
