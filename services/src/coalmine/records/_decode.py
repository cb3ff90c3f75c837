"""From frames to an Arrow record batch, many frames at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import ModelCard
from coalmine.records._errors import MalformedBatchError, SchemaError
from coalmine.records._frame import GROUP, PROTOCOLS, Layout
from coalmine.records._framing import PREFIX, Scan, scan
from coalmine.records._types import CALLER_UNKNOWN, InferenceRecord

__all__ = ["FRAMES_TYPE", "decode", "parse_frames", "record_batch"]

#: The media type of a layout's frame with frames behind it: what `parse_frames` reads.
FRAMES_TYPE = "application/vnd.coalmine.frames"

#: A row without values is a few bytes of a frame and a hundred of Arrow.
_MAX_ROWS = 2**20


def parse_frames(body: bytes, *, rows: int) -> pa.RecordBatch:
    """The record batch of a layout's frame and the frames behind it, `rows` in all.

    MalformedBatchError if it is not that, whoever wrote it: everything is checked.
    """
    header = scan(body, max_frames=1)
    found = scan(body, start=header.end)
    if not found.starts or found.end != len(body):
        raise MalformedBatchError("not whole frames of records behind their layout")
    if not found.rows == rows <= _MAX_ROWS:
        raise MalformedBatchError(
            f"{found.rows} rows in the frames, {rows} in x-coalmine-batch; at most {_MAX_ROWS}"
        )
    try:
        batch = decode(body, found, layout=_layout(body[PREFIX : header.end]))
        batch.validate(full=True)
    except _UNREADABLE as error:
        raise MalformedBatchError(f"not frames of records: {error}") from error
    return batch


#: What the bytes of a stranger can provoke in the code below.
_UNREADABLE = (
    SchemaError, pa.ArrowException, ValueError, TypeError, LookupError, AttributeError,
    OverflowError, RecursionError, struct.error,
)  # fmt: skip


@lru_cache(maxsize=16)
def _layout(payload: bytes) -> Layout:
    return Layout.load(payload)


def decode(data: bytes | memoryview, found: Scan, *, layout: Layout) -> pa.RecordBatch:
    """The record batch of scanned frames, one row per instance."""
    view = memoryview(data)
    frames = [start + PREFIX for start in found.starts]
    counts = [GROUP.unpack_from(view, at)[0] for at in frames]
    begins = np.array(frames, np.int64) + GROUP.size
    ids = begins + np.array(counts, np.int64) * layout.head.itemsize
    ends = np.array([*found.starts[1:], found.end], np.int64)
    _check(ids <= ends)
    heads = np.frombuffer(_gather(view, begins, ids), layout.head)
    owner = np.repeat(np.arange(len(frames)), counts)
    errors = ids + _sums(heads["id_length"], owner, len(frames))
    values = errors + _sums(heads["error_length"], owner, len(frames))
    rows = heads["rows"].astype(np.int64)
    _check(values <= ends)
    _check(rows >= 1)
    _check((rows == 1) | (heads["answered"] == 1))
    if rows.sum() != found.rows:
        raise ValueError("a frame does not have the rows that it says")
    parent = np.repeat(np.arange(len(heads)), rows)
    total = len(parent)
    each, same = number_array(parent), number_array(np.zeros(total, np.int64))
    request_ids = _strings(_gather(view, ids, errors), heads["id_length"])
    error_texts = _strings(
        _gather(view, errors, values), heads["error_length"], valid=heads["error_length"] > 0
    )
    columns: dict[str, pa.Array] = {
        "request_id": request_ids.take(each),
        "time": number_array(heads["time"][parent]).cast(pa.timestamp("us", tz="UTC")),
        "model_name": text_array([layout.card.name]).take(same),
        "model_version": text_array([layout.model_version]).take(same),
        "arm": text_array([layout.arm]).take(same),
        "pod": text_array([layout.pod]).take(same),
        "protocol": text_array(PROTOCOLS).take(number_array(heads["protocol"][parent])),
        "error": error_texts.take(each),
        "row": number_array((np.arange(total) - (np.cumsum(rows) - rows)[parent]).astype(np.int32)),
    }
    for name in ("status", "latency_us", "queue_us", "batch_rows"):
        columns[name] = number_array(heads[name][parent])
    columns["caller_block"] = _callers(heads, parent)
    answered = heads["answered"].astype(bool)
    in_frames = _sums(np.where(answered, rows, 0), owner, len(frames))
    spans = _Spans(values, ends, in_frames, answered[parent])
    columns.update(_tensor_columns(view, spans, layout=layout))
    return pa.record_batch([columns[name] for name in layout.schema.names], schema=layout.schema)


def record_batch(
    records: Iterable[InferenceRecord],
    *,
    card: ModelCard,
    model_version: str,
    arm: str,
    pod: str = "local",
) -> pa.RecordBatch:
    """The batch that an emitter would ship for these records, for those who have no emitter."""
    layout = Layout.of(card, model_version=model_version, arm=arm, pod=pod)
    data = b"".join(layout.encode(record).tobytes() for record in records)
    return decode(data, scan(data), layout=layout)


def _callers(heads: NDArray[Any], parent: NDArray[np.int64]) -> pa.Array:
    """Null where nobody looked who called, and in the frames of an earlier version."""
    if "caller" not in (heads.dtype.names or ()):
        return pa.nulls(len(parent), pa.int16())
    callers = heads["caller"][parent]
    known = callers > CALLER_UNKNOWN
    return number_array(callers, valid=None if known.all() else known)


class _Spans(NamedTuple):
    """Where the values of each frame lie, and which rows have any."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]
    """Answered ones, per frame."""

    answered: NDArray[np.bool_]  # per row of the batch


def _tensor_columns(view: memoryview, spans: _Spans, *, layout: Layout) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    position = spans.starts
    for _, _, dtype, width, names in layout.plain:
        stop = position + spans.rows * (width * dtype.itemsize)
        _check(stop <= spans.ends)
        matrix = np.frombuffer(_gather(view, position, stop), dtype).reshape(-1, width)
        for index, name in enumerate(names):
            columns[name] = _masked(matrix[:, index], spans.answered)
        position = stop
    if layout.texts:
        texts = [
            json.loads(bytes(view[start:end]))
            for start, end in zip(position.tolist(), spans.ends.tolist(), strict=True)
            if end > start  # a failed request has none
        ]
        for order, tensor in enumerate(layout.texts):
            flat = [value for frame_texts in texts for value in frame_texts[order]]
            if len(flat) != spans.rows.sum() * tensor.width:
                raise ValueError(f"{tensor.name}: not a text for every row")
            for index, name in enumerate(tensor.columns):
                columns[name] = _nulls(text_array(flat[index :: tensor.width]), spans)
    return columns


def _check(fits: NDArray[np.bool_]) -> None:
    if not fits.all():
        raise ValueError("a part of a frame does not fit into it")


def _masked(values: NDArray[Any], answered: NDArray[np.bool_]) -> pa.Array:
    """Values of the answered rows, null in the others; NaN stays NaN, which is a value."""
    if answered.all():
        return number_array(values)
    full = np.zeros(len(answered), values.dtype)
    full[answered] = values
    return number_array(full, valid=answered)


def _nulls(values: pa.Array, spans: _Spans) -> pa.Array:
    places = np.cumsum(spans.answered) - 1
    return values.take(number_array(places, valid=spans.answered))


def number_array(values: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """An array of numbers or booleans. `pa.array` would import pandas for it, if that is there."""
    kind = pa.from_numpy_dtype(values.dtype)
    data = _bits(values) if kind == pa.bool_() else pa.py_buffer(np.ascontiguousarray(values))
    validity = None if valid is None else _bits(valid)
    return pa.Array.from_buffers(kind, len(values), [validity, data])


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _gather(view: memoryview, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    # Joining slices beats fancy indexing by five to one for spans of some hundred bytes.
    return b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


def _sums(values: NDArray[Any], owner: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The sum of the values of each owner."""
    return np.bincount(owner, values, count).astype(np.int64)


def text_array(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode() for text in texts]
    return _strings(b"".join(encoded), np.array([len(each) for each in encoded], np.int64))


def _strings(
    data: bytes, lengths: NDArray[Any], *, valid: NDArray[np.bool_] | None = None
) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None if valid is None else _bits(valid), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(lengths), buffers)
