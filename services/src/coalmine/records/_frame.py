"""How records lie in a frame, and how they are put there.

A frame holds the requests of one batch: their number and rows, a fixed head for each, their ids,
their errors, and the tensors of all rows as they are in memory, in the order of the card. Encoding
is on the hot path of a prediction, so it is paid per batch, copies nothing large, and knows nothing
of columns; decoding is the other side's work, many frames at once.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import ModelCard
from coalmine.records._errors import SchemaError
from coalmine.records._framing import Frame, framed
from coalmine.records._schema import record_schema
from coalmine.records._types import AnsweredRequest, AnsweredTuple, InferenceRecord

__all__ = ["GROUP", "HEAD", "PROTOCOLS", "Layout", "Tensors"]

#: The inputs and the outputs of some rows, by name.
Tensors = tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]

GROUP = struct.Struct("<II")  # requests in the frame, and their rows
HEAD = struct.Struct("<qqqIihBBHHh")
_HEAD_DTYPE = np.dtype(
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
        ("caller", "<i2"),
    ]
)
#: Of the frames themselves; a file of another version cannot be read, and counts as corrupt.
_VERSION = 4
#: How heads look, by version: of the one before, whatever still waits in a spool is read.
_HEADS = {3: np.dtype(_HEAD_DTYPE.descr[:-1]), 4: _HEAD_DTYPE}

PROTOCOLS = ("v1", "v2", "grpc")
_PROTOCOL_CODES = {name: code for code, name in enumerate(PROTOCOLS)}

_MAX_TEXT = 2**16 - 1
#: A tensor of fewer bytes is copied: that costs less than to look at it where it is.
_SMALL = 4096

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
    head: np.dtype[Any] = _HEAD_DTYPE
    """Of the frames that are read by it; all that are written have the newest."""

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
            if (version := content.pop("version", 1)) not in _HEADS:
                raise SchemaError(f"records of version {version}, not {_VERSION}")
            card = ModelCard.model_validate(content.pop("card"))
            return replace(cls.of(card, **content), head=_HEADS[version])
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
            record.caller,
        )
        error = b"" if record.error is None else _encoded(record.error)
        top, rows = _top([request], record.batch_rows, answered, status=record.status, error=error)
        tensors = []
        if record.outputs is not None:
            tensors = self._encode_tensors([(record.inputs, record.outputs)], rows=rows)
        return framed(top, tensors, rows=rows)

    def encode_batch(
        self,
        requests: Sequence[AnsweredTuple],
        parts: Sequence[Tensors],
        *,
        batch_rows: int,
    ) -> Frame:
        """The frame of requests that were answered together; the parts hold all their rows."""
        top, rows = _top(requests, batch_rows)
        return framed(top, self._encode_tensors(parts, rows=rows), rows=rows)

    def _encode_tensors(self, parts: Sequence[Tensors], *, rows: int) -> list[Any]:
        bulk: list[Any] = []
        for name, output, dtype, width, _ in self.plain:
            size = 0
            for part in parts:
                array = part[output][name]
                if array.dtype is not dtype and array.dtype != dtype:
                    array = array.astype(dtype)
                if len(parts) > 1 and array.size != len(array) * width:
                    raise ValueError(f"{name}: {array.shape} is not rows of {width}")
                size += array.size
                bulk.append(array.tobytes() if array.nbytes < _SMALL else _bytes_of(array))
            if size != rows * width:
                raise ValueError(f"{name}: {size} values are not {rows} rows of {width}")
        if self.texts:
            bulk.append(self._encode_texts(parts, rows=rows))
        return bulk

    def _encode_texts(self, parts: Sequence[Tensors], *, rows: int) -> bytes:
        texts = []
        for name, output, _, width, _ in self.texts:
            values = [value for part in parts for value in part[output][name].ravel().tolist()]
            if len(values) != rows * width:
                raise ValueError(f"{name}: {len(values)} values are not {rows} rows of {width}")
            texts.append([_text(value) for value in values])
        return json.dumps(texts).encode()


def _top(
    requests: Sequence[AnsweredTuple],
    batch_rows: int,
    answered: bool = True,
    *,
    status: int = 200,
    error: bytes = b"",
) -> tuple[bytes, int]:
    """All of a frame but its tensors, and its rows; `error` is that of the only request."""
    heads, ids = [b""], []
    total, error_length = 0, len(error)
    for text, time, protocol, latency_us, rows, queue_us, caller in requests:
        if rows < 1:
            raise ValueError("a record of no instances")
        total += rows
        identifier = _encoded(text)
        ids.append(identifier)
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
                error_length,
                caller,
            )
        )
    heads[0] = GROUP.pack(len(ids), total)
    heads += ids
    heads.append(error)
    return b"".join(heads), total


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _encoded(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= _MAX_TEXT:
        return data
    return data[:_MAX_TEXT].decode("utf-8", "ignore").encode()  # a character may have been cut


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
