"""The Arrow schema of records, derived from the model card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa

from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records._errors import SchemaError

__all__ = [
    "BASE_FIELDS",
    "LATER_FIELDS",
    "class_name",
    "is_reserved",
    "label_categories",
    "record_schema",
]

#: The columns every record has, whatever the model.
BASE_FIELDS: tuple[pa.Field, ...] = (
    pa.field("request_id", pa.string(), nullable=False),
    pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("model_name", pa.string(), nullable=False),
    pa.field("model_version", pa.string(), nullable=False),
    pa.field("arm", pa.string(), nullable=False),
    pa.field("pod", pa.string(), nullable=False),
    pa.field("protocol", pa.string(), nullable=False),
    pa.field("status", pa.int16(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("latency_us", pa.int64(), nullable=False),
    pa.field("queue_us", pa.int64(), nullable=False),
    pa.field("batch_rows", pa.int32(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
    # Which block of sticky callers asked: 0 to 4095, -1 if none said so, null if nobody looked.
    pa.field("caller_block", pa.int16()),
)
#: Those that records of an earlier version do not have.
LATER_FIELDS = frozenset({"caller_block"})

_OURS = frozenset(field.name for field in BASE_FIELDS) | {"true_label"}
#: The archive's partitions, which to some of its readers are the same in capitals.
_PARTITIONS = frozenset({"model", "version", "day"})

_TYPES: dict[str, pa.DataType] = {
    "BOOL": pa.bool_(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FP16": pa.float16(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
    "BYTES": pa.string(),
}


def record_schema(card: ModelCard) -> pa.Schema:
    """The schema of the records of a model: 14 columns of the request, the features, the outputs.

    A column has the type of its tensor; a categorical one holds indices. The metadata of a field
    says its `role` (feature | output) and, if it is categorical, its `categories` as JSON. Raises
    SchemaError for a name that is used twice or reserved.
    """
    fields = list(BASE_FIELDS)
    fields += _fields(card.inputs, role="feature")
    fields += _fields(card.outputs, role="output")
    for name, count in Counter(field.name for field in fields).items():
        if count > 1 and not is_reserved(name):
            raise SchemaError(
                f"column {name!r} is there {count} times; records need each name once"
            )
    for field in fields[len(BASE_FIELDS) :]:
        if is_reserved(field.name):
            raise SchemaError(f"column {field.name!r} has a name that records keep for themselves")
    return pa.schema(fields)


def is_reserved(name: str) -> bool:
    """Whether no feature or output may have this name: that of a column of every record, of the
    join with labels, of a partition of the archive, or none at all.

    >>> is_reserved("status"), is_reserved("Day"), is_reserved("Status")
    (True, True, False)
    """
    return name in _OURS or name.lower() in _PARTITIONS or not name


def label_categories(schema: pa.Schema) -> tuple[str, ...]:
    """The classes of the first categorical output, what labels are about; empty if none."""
    for field in schema:
        metadata = field.metadata or {}
        if metadata.get(b"role") == b"output" and b"categories" in metadata:
            return tuple(json.loads(metadata[b"categories"]))
    return ()


def class_name(label: str, categories: tuple[str, ...]) -> str:
    """The name of a class given by name or by its index in decimal.

    >>> class_name("1", ("normal", "fault")), class_name("fault", ("normal", "fault"))
    ('fault', 'fault')
    """
    if label in categories or not (label.isascii() and label.isdigit()):
        return label
    index = int(label)
    return categories[index] if index < len(categories) else label


def _fields(tensors: Iterable[Tensor], *, role: str) -> list[pa.Field]:
    return [
        pa.field(column.name, _TYPES[tensor.datatype], metadata=_metadata(column, role=role))
        for tensor in tensors
        for column in tensor.columns
    ]


def _metadata(column: Column, *, role: str) -> dict[str, str]:
    metadata = {"role": role}
    if column.categories:
        metadata["categories"] = json.dumps(column.categories)
    return metadata
