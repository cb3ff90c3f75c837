"""A record batch on its way into a log: checked, summarised and packed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coalmine.records._errors import MalformedBatchError
from coalmine.records._fingerprints import fingerprints
from coalmine.records._schema import BASE_FIELDS, LATER_FIELDS
from coalmine.records._types import BatchId

__all__ = ["PackedBatch", "pack", "parse_stream", "unpack"]

#: A body is the size of an Arrow IPC message, and the message compressed: records are repetitive.
_SIZE = struct.Struct("<Q")
_CODEC = "lz4_raw"

_REQUIRED = tuple(field.name for field in BASE_FIELDS if not field.nullable)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch as a log stores it, with what is known of it without opening it."""

    schema: bytes
    body: bytes
    model_name: str
    model_version: str
    arm: str
    rows: int
    min_time: int
    """Microseconds since the epoch, as `max_time`."""

    max_time: int
    requests: bytes
    """Sorted fingerprints of its request ids, uint64."""


def parse_stream(data: bytes) -> pa.RecordBatch:
    """The one record batch of an Arrow IPC stream; MalformedBatchError if it is not that.

    Every buffer is checked, since what is stored must never break a consumer; that they are
    records, `pack` checks.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        table.validate(full=True)
        batches = table.combine_chunks().to_batches()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedBatchError(f"not an Arrow IPC stream of records: {error}") from error
    if len(batches) != 1:
        raise MalformedBatchError("no rows")
    return batches[0]


def _check(batch: pa.RecordBatch) -> None:
    """MalformedBatchError unless these are records of one model version and arm."""
    if batch.num_rows == 0:
        raise MalformedBatchError("no rows")
    _check_schema(batch.schema)
    for field in _REQUIRED:
        if batch.column(field).null_count:
            raise MalformedBatchError(f"column {field!r} has nulls")
    for name in ("model_name", "model_version", "arm"):
        column = batch.column(name)
        if not pc.all(pc.equal(column, column[0])).as_py():
            raise MalformedBatchError(f"column {name!r} must have one value in a batch")


@lru_cache(maxsize=256)
def _check_schema(schema: pa.Schema) -> None:
    """Once for each schema, since there are few; what raises is not remembered."""
    for field in BASE_FIELDS:
        if field.name in LATER_FIELDS and field.name not in schema.names:
            continue
        index = schema.get_field_index(field.name)
        if index < 0 or schema.field(index).type != field.type:
            raise MalformedBatchError(f"column {field.name!r} must be there once, as {field.type}")
    if len(set(schema.names)) != len(schema.names):
        raise MalformedBatchError("a column is there twice")
    for field in schema:
        if not (pa.types.is_primitive(field.type) or pa.types.is_string(field.type)):
            raise MalformedBatchError(f"column {field.name!r} holds no numbers or strings")


def pack(batch: pa.RecordBatch, batch_id: BatchId) -> PackedBatch:
    """Check and pack a batch; MalformedBatchError if it is none, or not the rows of its id."""
    _check(batch)
    if batch.num_rows != batch_id.rows:
        raise MalformedBatchError(
            f"{batch_id} has {batch_id.rows} rows, the batch {batch.num_rows}"
        )
    times = pc.min_max(batch.column("time").cast(pa.int64()))
    requests = np.sort(fingerprints(pc.unique(batch.column("request_id"))))
    return PackedBatch(
        schema=batch.schema.serialize().to_pybytes(),
        body=_compressed(batch.serialize()),
        model_name=batch.column("model_name")[0].as_py(),
        model_version=batch.column("model_version")[0].as_py(),
        arm=batch.column("arm")[0].as_py(),
        rows=batch.num_rows,
        min_time=times["min"].as_py(),
        max_time=times["max"].as_py(),
        requests=requests.tobytes(),
    )


def unpack(body: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The batch that `pack` packed."""
    (size,) = _SIZE.unpack_from(body)
    message = pa.decompress(memoryview(body)[_SIZE.size :], decompressed_size=size, codec=_CODEC)
    return pa.ipc.read_record_batch(message, schema)


def _compressed(message: pa.Buffer) -> bytes:
    packed: bytes = pa.compress(message, codec=_CODEC, asbytes=True)
    return _SIZE.pack(message.size) + packed
