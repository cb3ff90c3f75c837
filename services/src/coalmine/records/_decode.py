"""From frames to an Arrow record batch, many frames at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coalmine.modeldir import ModelCard
from coalmine.records._frame import HEAD, HEAD_DTYPE, PREFIX, PROTOCOLS, Layout, Scan, scan
from coalmine.records._types import InferenceRecord

__all__ = ["decode", "record_batch"]


def decode(data: bytes | memoryview, found: Scan, *, layout: Layout) -> pa.RecordBatch:
    """The record batch of scanned frames, one row per instance."""
    view = memoryview(data)
    begins = np.array(found.starts, np.int64) + PREFIX.size
    heads = np.frombuffer(_gather(view, begins, begins + HEAD.size), HEAD_DTYPE)
    ids = begins + HEAD.size
    errors = ids + heads["id_length"]
    values = errors + heads["error_length"]
    ends = np.array([*found.starts[1:], found.end], np.int64)

    rows = heads["rows"].astype(np.int64)
    parent = np.repeat(np.arange(len(heads)), rows)
    total = len(parent)
    columns: dict[str, pa.Array] = {
        "request_id": _strings(view, ids, errors).take(pa.array(parent)),
        "time": pa.array(heads["time"][parent]).cast(pa.timestamp("us", tz="UTC")),
        "model_name": pa.repeat(layout.card.name, total),
        "model_version": pa.repeat(layout.model_version, total),
        "arm": pa.repeat(layout.arm, total),
        "pod": pa.repeat(layout.pod, total),
        "protocol": pa.array(PROTOCOLS).take(pa.array(heads["protocol"][parent])),
        "error": _strings(view, errors, values, nulls=True).take(pa.array(parent)),
        "row": pa.array((np.arange(total) - (np.cumsum(rows) - rows)[parent]).astype(np.int32)),
    }
    for name in ("status", "latency_us", "queue_us", "batch_rows"):
        columns[name] = pa.array(heads[name][parent])
    answered = heads["answered"].astype(bool)
    spans = _Spans(values[answered], ends[answered], rows[answered], answered[parent])
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
    data = b"".join(layout.encode(record)[0] for record in records)
    return decode(data, scan(data), layout=layout)


class _Spans(NamedTuple):
    """Where the values of answered requests lie, and which rows they are."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]
    answered: NDArray[np.bool_]  # per row of the batch


def _tensor_columns(view: memoryview, spans: _Spans, *, layout: Layout) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    position = spans.starts
    for _, _, dtype, width, names in layout.plain:
        stop = position + spans.rows * (width * dtype.itemsize)
        matrix = np.frombuffer(_gather(view, position, stop), dtype).reshape(-1, width)
        for index, name in enumerate(names):
            columns[name] = _masked(matrix[:, index], spans.answered)
        position = stop
    if layout.texts:
        texts = [
            json.loads(bytes(view[start:end]))
            for start, end in zip(position.tolist(), spans.ends.tolist(), strict=True)
        ]
        for order, tensor in enumerate(layout.texts):
            flat = [value for frame_texts in texts for value in frame_texts[order]]
            for index, name in enumerate(tensor.columns):
                columns[name] = _nulls(pa.array(flat[index :: tensor.width], pa.string()), spans)
    return columns


def _masked(values: NDArray[Any], answered: NDArray[np.bool_]) -> pa.Array:
    """Values of the answered rows, null in the others; NaN stays NaN, which is a value."""
    if answered.all():
        return pa.array(np.ascontiguousarray(values))
    full = np.zeros(len(answered), values.dtype)
    full[answered] = values
    return pa.array(full, mask=~answered)


def _nulls(values: pa.Array, spans: _Spans) -> pa.Array:
    places = np.cumsum(spans.answered) - 1
    return values.take(pa.array(places, mask=~spans.answered))


def _gather(view: memoryview, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    # Joining slices beats fancy indexing by five to one for spans of some hundred bytes.
    return b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


def _strings(
    view: memoryview, starts: NDArray[np.int64], ends: NDArray[np.int64], *, nulls: bool = False
) -> pa.Array:
    offsets = np.zeros(len(starts) + 1, np.int32)
    np.cumsum(ends - starts, out=offsets[1:])
    data = pa.py_buffer(_gather(view, starts, ends))
    strings = pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), data)
    if not nulls:
        return strings
    return pc.if_else(pa.array(ends > starts), strings, pa.scalar(None, pa.string()))
