"""The predicted class of each row of a batch."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coalmine_monitors._rows import answered, times
from coalmine_monitors._versions import batch_arm, batch_version
from coalmine_monitors.performance._estimate import Calibration
from coalmine_monitors.performance._join import Answer

__all__ = ["answers_of"]


def answers_of(batch: pa.RecordBatch, *, calibration: Calibration | None = None) -> list[Answer]:
    """The answers that labels can be about; none if the model has no categorical output.

    With a `calibration`, each with its chance to be right.
    """
    found = _class_column(batch.schema)
    batch = answered(batch)
    if found is None or not batch.num_rows:
        return []
    name, categories = found
    # A label may be given by the index of its class, unless the names of classes look like that
    # too.
    by_number = not any(category.isdigit() for category in categories)
    version, arm = batch_version(batch), batch_arm(batch)
    column = batch.column(name)
    if pa.types.is_string(column.type):
        column = pc.index_in(column, value_set=pa.array(categories, pa.string()))
    indices = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    chances = np.full(batch.num_rows, np.nan) if calibration is None else calibration.chances(batch)
    return [
        Answer(
            request_id=request_id,
            row=row,
            arm=arm,
            version=version,
            time=time,
            answer=categories[int(index)],
            number=str(int(index)) if by_number else None,
            chance=chance if chance == chance else None,
        )
        for request_id, row, time, index, chance in zip(
            batch.column("request_id").to_pylist(),
            batch.column("row").to_pylist(),
            times(batch).tolist(),
            indices.tolist(),
            chances.tolist(),
            strict=True,
        )
        if 0 <= index < len(categories)  # NaN, for a null, is neither
    ]


def _class_column(schema: pa.Schema) -> tuple[str, tuple[str, ...]] | None:
    for field in schema:
        metadata = field.metadata or {}
        if metadata.get(b"role") == b"output" and b"categories" in metadata:
            return field.name, tuple(json.loads(metadata[b"categories"]))
    return None
