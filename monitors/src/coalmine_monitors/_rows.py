"""Columns of records and references as one matrix of numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coalmine.modeldir import Column

__all__ = ["ERROR_STATUS", "answered", "matrix", "times"]

#: Answers with this status or more are errors; their records have no features.
ERROR_STATUS = 400

Floats = NDArray[np.float64]


def answered(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of requests that were answered with a prediction."""
    status = batch.column("status")
    # 0 is a call that KServe's logger delivered half of.
    return batch.filter(pc.and_(pc.greater(status, 0), pc.less(status, ERROR_STATUS)))


def times(batch: pa.RecordBatch) -> Floats:
    """Record times, seconds since the epoch, [rows]."""
    micros = batch.column("time").cast(pa.int64()).to_numpy()
    return np.asarray(micros / 1e6, dtype=np.float64)


def matrix(data: pa.RecordBatch | pa.Table, columns: tuple[Column, ...]) -> Floats:
    """The values of `columns` [rows, columns]: NaN where missing, an index where categorical."""
    # Column after column, as they come and as they are counted.
    values = np.empty((data.num_rows, len(columns)), order="F")
    known = set(data.schema.names)
    for index, column in enumerate(columns):
        own = column.name in known
        values[:, index] = _numbers(data.column(column.name), column) if own else np.nan
    return values


def _numbers(values: pa.Array | pa.ChunkedArray, column: Column) -> NDArray[np.floating]:
    if pa.types.is_string(values.type):
        known = pc.index_in(values, value_set=pa.array(column.categories or (), pa.string()))
        # What is no known category is a value all the same, the one after the last.
        unknown = pc.if_else(pc.is_valid(values), len(column.categories or ()), None)
        values = pc.coalesce(known, unknown.cast(pa.int32()))
    if not pa.types.is_floating(values.type):
        values = values.cast(pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False))
