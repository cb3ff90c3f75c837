"""From frames to an Arrow record batch, many frames at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import ModelCard
from coalmine.records._arrays import check_size, number_array, same_text, text_array, texts
from coalmine.records._errors import MalformedBatchError, SchemaError
from coalmine.records._frame import GROUP, PROTOCOLS, Layout
from coalmine.records._framing import PREFIX, Scan, scan
from coalmine.records._gather import Source, spread, transposed
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
    """The record batch of scanned frames, one row per instance.

    It is sound whatever they hold: one of `_UNREADABLE` for frames that are no records.
    """
    source = Source(data)
    requests = _requests(source, found, layout=layout)
    heads, each = requests.heads, requests.each
    columns: dict[str, pa.Array] = {
        "request_id": _request_ids(source, requests),
        "time": number_array(each(heads["time"])).cast(pa.timestamp("us", tz="UTC")),
        "protocol": _protocols(each(heads["protocol"])),
        "error": _errors(source, requests),
        "row": number_array(requests.place_in_request()),
        "caller_block": _callers(heads, each),
    }
    for name in ("status", "latency_us", "queue_us", "batch_rows"):
        columns[name] = number_array(each(heads[name]))
    for name, text in (
        ("model_name", layout.card.name),
        ("model_version", layout.model_version),
        ("arm", layout.arm),
        ("pod", layout.pod),
    ):
        columns[name] = same_text(text, requests.total)
    columns.update(_tensor_columns(source, requests, layout=layout))
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


class _Requests(NamedTuple):
    """The requests of some frames, and where their parts lie."""

    heads: NDArray[Any]
    rows: NDArray[np.int64]
    """Of each request."""

    total: int
    """Rows of all."""

    ids: NDArray[np.int64]
    """Where those of each frame begin; then its errors, its values, and its end."""

    errors: NDArray[np.int64]
    values: NDArray[np.int64]
    ends: NDArray[np.int64]
    counts: NDArray[np.int64]
    """Requests of each frame."""

    value_rows: NDArray[np.int64]
    """Rows with values of each frame."""

    parents: NDArray[np.int64] | None
    """The request of each row; None if each has one row, as is usual."""

    def each(self, values: NDArray[Any]) -> NDArray[Any]:
        """For each row what is said of its request."""
        return values if self.parents is None else values[self.parents]

    def each_of(self, values: pa.Array) -> pa.Array:
        """The same, of an Arrow array."""
        return values if self.parents is None else values.take(number_array(self.parents))

    def place_in_request(self) -> NDArray[np.int32]:
        """Of each row, from 0."""
        if self.parents is None:
            return np.zeros(self.total, np.int32)
        first = np.cumsum(self.rows) - self.rows
        return (np.arange(self.total) - first[self.parents]).astype(np.int32)


def _requests(source: Source, found: Scan, *, layout: Layout) -> _Requests:
    frames = np.array(found.starts, np.int64) + PREFIX
    ends = np.append(frames[1:] - PREFIX, found.end)[: len(frames)]
    _check(frames + GROUP.size <= ends)
    counts = source.fixed(frames, np.dtype("<u4")).astype(np.int64)
    begins = frames + GROUP.size
    ids = begins + counts * layout.head.itemsize
    _check(ids <= ends)
    heads = source.fixed(spread(begins, counts, layout.head.itemsize), layout.head)
    owner = np.repeat(np.arange(len(frames)), counts)
    errors = ids + _sums(heads["id_length"], owner, len(frames))
    values = errors + _sums(heads["error_length"], owner, len(frames))
    _check(values <= ends)
    rows = heads["rows"].astype(np.int64)
    answered = heads["answered"] == 1
    _check(rows >= 1)
    _check((rows == 1) | answered)
    if rows.sum() != found.rows:
        raise ValueError("a frame does not have the rows that it says")
    return _Requests(
        heads=heads,
        rows=rows,
        total=found.rows,
        ids=ids,
        errors=errors,
        values=values,
        ends=ends,
        counts=counts,
        value_rows=_sums(np.where(heads["answered"] != 0, rows, 0), owner, len(frames)),
        parents=None if len(rows) == found.rows else np.repeat(np.arange(len(rows)), rows),
    )


def _request_ids(source: Source, requests: _Requests) -> pa.Array:
    lengths = requests.heads["id_length"].astype(np.int64)
    check_size(int((lengths * requests.rows).sum()))
    if len(lengths) and lengths[0] > 0 and (lengths == lengths[0]).all():  # UUIDs, say
        length = int(lengths[0])
        starts = requests.each(spread(requests.ids, requests.counts, length))
        data = source.fixed(starts, np.dtype(f"V{length}")).view(np.uint8)
        return texts(data, np.full(requests.total, length))
    return requests.each_of(texts(source.joined(requests.ids, requests.errors), lengths))


def _errors(source: Source, requests: _Requests) -> pa.Array:
    lengths = requests.heads["error_length"].astype(np.int64)
    if not lengths.any():
        return pa.nulls(requests.total, pa.string())
    check_size(int((lengths * requests.rows).sum()))
    data = source.joined(requests.errors, requests.values)
    return requests.each_of(texts(data, lengths, valid=lengths > 0))


def _protocols(codes: NDArray[np.uint8]) -> pa.Array:
    if len(codes) and (codes == codes[0]).all():
        return same_text(PROTOCOLS[codes[0]], len(codes))
    return text_array(PROTOCOLS).take(number_array(codes))


def _callers(heads: NDArray[Any], each: Callable[[NDArray[Any]], NDArray[Any]]) -> pa.Array:
    """Null where nobody looked who called, and in the frames of an earlier version."""
    if "caller" not in (heads.dtype.names or ()):
        return pa.nulls(len(each(heads)), pa.int16())
    callers = each(heads["caller"])
    known = callers > CALLER_UNKNOWN
    return number_array(callers, valid=None if known.all() else known)


def _tensor_columns(source: Source, requests: _Requests, *, layout: Layout) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    answered = requests.each(requests.heads["answered"].astype(bool))
    missing = None if answered.all() else answered
    position = requests.values
    for _, _, dtype, width, names in layout.plain:
        stop = position + requests.value_rows * (width * dtype.itemsize)
        _check(stop <= requests.ends)
        matrix = source.rows(position, requests.value_rows, dtype=dtype, width=width)
        for name, values in zip(names, transposed(matrix), strict=True):
            columns[name] = _masked(values, missing)
        position = stop
    if layout.texts:
        columns.update(_text_columns(source, requests, position, layout=layout, answered=answered))
    return columns


def _text_columns(
    source: Source,
    requests: _Requests,
    position: NDArray[np.int64],
    *,
    layout: Layout,
    answered: NDArray[np.bool_],
) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    found = [
        json.loads(source.piece(start, end))
        for start, end in zip(position.tolist(), requests.ends.tolist(), strict=True)
        if end > start  # a failed request has none
    ]
    places = number_array(np.cumsum(answered) - 1, valid=answered)
    for order, tensor in enumerate(layout.texts):
        flat = [value for frame_texts in found for value in frame_texts[order]]
        if len(flat) != requests.value_rows.sum() * tensor.width:
            raise ValueError(f"{tensor.name}: not a text for every row")
        for index, name in enumerate(tensor.columns):
            columns[name] = text_array(flat[index :: tensor.width]).take(places)
    return columns


def _check(fits: NDArray[np.bool_]) -> None:
    if not fits.all():
        raise ValueError("a part of a frame does not fit into it")


def _masked(values: NDArray[Any], answered: NDArray[np.bool_] | None) -> pa.Array:
    """Values of the answered rows, null in the others; NaN stays NaN, which is a value."""
    if answered is None:
        return number_array(values)
    full = np.zeros(len(answered), values.dtype)
    full[answered] = values
    return number_array(full, valid=answered)


def _sums(values: NDArray[Any], owner: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The sum of the values of each owner."""
    return np.bincount(owner, values, count).astype(np.int64)
