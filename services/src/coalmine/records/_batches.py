"""A record batch on its way into a log: checked, summarised and packed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.records._errors import MalformedBatchError
from coalmine.records._fingerprints import distinct, fingerprints, texts_of
from coalmine.records._schema import BASE_FIELDS, LATER_FIELDS, is_reserved
from coalmine.records._types import BatchId

__all__ = ["PackedBatch", "pack", "parse_stream", "unpack"]

#: A body is the size of an Arrow IPC message, and the message compressed: records are repetitive.
_SIZE = struct.Struct("<Q")
_CODEC = "lz4_raw"

#: Of columns; others cannot all be archived, or not be understood by monitors.
_KINDS = (
    pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string,
    pa.types.is_timestamp,
)  # fmt: skip

_LONGEST_SCHEMA = 64 * 1024
#: What may stand behind the batch of a stream: nothing, or that this is the end, in two versions.
_ENDS = (b"", b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")

#: The latter is how a folder of the archive says that there is none.
_NO_NAMES = ("", "__HIVE_DEFAULT_PARTITION__")
#: What has a date, microseconds since the epoch.
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_800_000_000
_BASE = frozenset(field.name for field in BASE_FIELDS)
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
        batches = _one_message(data)
        if batches is None:
            with pa.ipc.open_stream(data) as reader:
                table = reader.read_all()
            table.validate(full=True)
            batches = table.combine_chunks().to_batches()
        else:
            batches[0].validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedBatchError(f"not an Arrow IPC stream of records: {error}") from error
    if len(batches) != 1:
        raise MalformedBatchError("no rows")
    return batches[0]


def _one_message(data: bytes) -> list[pa.RecordBatch] | None:
    """The batch of a stream that has one, of a schema seen before; None: read it as any stream.

    Half of what a stream of a thousand rows costs is its schema.
    """
    reader = pa.BufferReader(data)
    try:
        pa.ipc.read_message(reader)
        length = reader.tell()
        schema = _native_schema(data[:length]) if length <= _LONGEST_SCHEMA else None
        if schema is None:
            return None
        message = pa.ipc.read_message(reader)
    except EOFError:
        return None
    if message.type != "record batch" or data[reader.tell() :] not in _ENDS:
        return None
    return [pa.ipc.read_record_batch(message, schema)]


@lru_cache(maxsize=64)
def _native_schema(message: bytes) -> pa.Schema | None:
    """The schema of a message; None if this machine would have written another for it.

    That leaves out the bytes' other order and dictionaries, which take more than a message.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    if any(pa.types.is_nested(kind) or pa.types.is_dictionary(kind) for kind in schema.types):
        return None
    same = pa.schema(list(schema), metadata=schema.metadata).serialize().to_pybytes() == message
    return schema if same else None


def _check(batch: pa.RecordBatch) -> bytes:
    """Its schema, packed; MalformedBatchError unless these are records of one version and arm."""
    if batch.num_rows == 0:
        raise MalformedBatchError("no rows")
    schema: bytes = batch.schema.serialize().to_pybytes()
    _check_schema(schema)
    for name in _REQUIRED:
        if batch.column(name).null_count:
            raise MalformedBatchError(f"column {name!r} has nulls")
    for name in ("model_name", "model_version", "arm"):
        if not _is_one(batch.column(name)):
            raise MalformedBatchError(f"column {name!r} must have one value in a batch")
        if batch.column(name)[0].as_py() in _NO_NAMES:
            raise MalformedBatchError(f"column {name!r} holds no name")
    return schema


def _is_one(texts: pa.StringArray) -> bool:
    """Whether all of them are the same; by their bytes, since Arrow takes ten times as long."""
    places, data = texts_of(texts)
    length, count = int(places[1]), len(texts)
    if int(places[-1]) != length * count or (np.diff(places) != length).any():
        return False
    return data.tobytes() == data[:length].tobytes() * count


@lru_cache(maxsize=256)
def _check_schema(packed: bytes) -> None:
    """Once for each schema, since there are few; what raises is not remembered."""
    schema = pa.ipc.read_schema(pa.py_buffer(packed))
    try:
        names = schema.names
    except UnicodeDecodeError as error:
        raise MalformedBatchError("the name of a column is not UTF-8") from error
    for field in BASE_FIELDS:
        if field.name in LATER_FIELDS and field.name not in names:
            continue
        index = schema.get_field_index(field.name)
        if index < 0 or schema.field(index).type != field.type:
            raise MalformedBatchError(f"column {field.name!r} must be there once, as {field.type}")
    if len(set(names)) != len(names):
        raise MalformedBatchError("a column is there twice")
    for field in schema:
        if is_reserved(field.name) and field.name not in _BASE:
            raise MalformedBatchError(
                f"column {field.name!r} has a name that records keep for themselves"
            )
        if not any(is_kind(field.type) for is_kind in _KINDS):
            raise MalformedBatchError(f"column {field.name!r} holds no numbers or strings")


def pack(batch: pa.RecordBatch, batch_id: BatchId | None = None) -> PackedBatch:
    """Check and pack a batch; MalformedBatchError if it is none, or not the rows of its id."""
    schema = _check(batch)
    if batch_id is not None and batch.num_rows != batch_id.rows:
        raise MalformedBatchError(
            f"{batch_id} has {batch_id.rows} rows, the batch {batch.num_rows}"
        )
    times = _microseconds(batch.column("time"))
    first, last = int(times.min()), int(times.max())
    if not _FIRST_TIME <= first <= last < _LAST_TIME:
        raise MalformedBatchError("column 'time' has a year that is not from 1 to 9999")
    return PackedBatch(
        schema=schema,
        body=_compressed(batch.serialize()),
        model_name=batch.column("model_name")[0].as_py(),
        model_version=batch.column("model_version")[0].as_py(),
        arm=batch.column("arm")[0].as_py(),
        rows=batch.num_rows,
        min_time=first,
        max_time=last,
        requests=distinct(fingerprints(batch.column("request_id"))).tobytes(),
    )


def _microseconds(times: pa.TimestampArray) -> NDArray[np.int64]:
    return np.frombuffer(times.buffers()[1], np.int64, len(times), 8 * times.offset)


def unpack(body: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The batch that `pack` packed."""
    (size,) = _SIZE.unpack_from(body)
    message = pa.decompress(memoryview(body)[_SIZE.size :], decompressed_size=size, codec=_CODEC)
    return pa.ipc.read_record_batch(message, schema)


def _compressed(message: pa.Buffer) -> bytes:
    packed: bytes = pa.compress(message, codec=_CODEC, asbytes=True)
    return _SIZE.pack(message.size) + packed
