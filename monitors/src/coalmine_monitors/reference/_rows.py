"""From a table of somebody's to the rows of `reference.parquet`: the columns of the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine_monitors._errors import UnusableReferenceError

__all__ = ["TRUE_LABEL", "reference_rows"]

#: The column of a reference that holds the true class.
TRUE_LABEL = "true_label"
#: Rows that the model is given at a time.
_ROWS = 8192

_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1",
    "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
    "BYTES": "O",
}  # fmt: skip

Tensors = Mapping[str, NDArray[np.generic]]


def reference_rows(
    source: pa.Table,
    card: ModelCard,
    *,
    predict: Callable[[Tensors], Tensors] | None,
    label_column: str | None = None,
    time_column: str | None = None,
) -> pa.Table:
    """The rows of a reference, in the order of `time_column` (as they are without one).

    Features and predictions are columns as the card names them, `true_label` is a text. Where the
    table lacks predictions, `predict` makes them: tensors of the inputs in, of the outputs out.
    UnusableReferenceError names the column that is missing or of a type that does not fit.
    """
    _check_names(source, card, label_column=label_column, time_column=time_column)
    if source.num_rows == 0:
        raise UnusableReferenceError("the table has no rows")
    if time_column is not None:
        source = _in_order(source, time_column)
    columns = {
        column.name: _values(source, column, tensor)
        for tensor in card.inputs
        for column in tensor.columns
    }
    outputs = [(tensor, column) for tensor in card.outputs for column in tensor.columns]
    if all(column.name in source.column_names for _, column in outputs):
        columns |= {column.name: _values(source, column, tensor) for tensor, column in outputs}
    elif predict is None:
        missing = [column.name for _, column in outputs if column.name not in source.column_names]
        raise UnusableReferenceError(
            f"predictions are missing ({', '.join(missing)}), and there is no network to make them"
        )
    else:
        columns |= _predicted(columns, card, predict)
    table = pa.table(columns)
    if label_column is not None:
        texts = source.column(label_column).combine_chunks().cast(pa.string())
        table = table.append_column(TRUE_LABEL, texts)
    if time_column is not None and time_column not in table.column_names:
        table = table.append_column("time", source.column(time_column).combine_chunks())
    return table


def _in_order(source: pa.Table, time_column: str) -> pa.Table:
    """Sorted by a column that holds times, or seconds since the epoch."""
    column = source.column(time_column)
    if column.null_count:
        raise UnusableReferenceError(f"column {time_column!r} has rows without a time")
    if pa.types.is_date(column.type):
        place = source.column_names.index(time_column)
        source = source.set_column(place, time_column, column.cast(pa.timestamp("us", "UTC")))
    elif not (
        pa.types.is_timestamp(column.type)
        or pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
    ):
        raise UnusableReferenceError(
            f"column {time_column!r} is of type {column.type}: times, or numbers (seconds since "
            "the epoch), are expected"
        )
    return source.sort_by(time_column)


def _check_names(
    source: pa.Table, card: ModelCard, *, label_column: str | None, time_column: str | None
) -> None:
    features = card.feature_columns()
    if not features:
        raise UnusableReferenceError(
            f"the model {card.name!r} names no columns in model.yaml: nothing can be compared"
        )
    names = [column.name for column in features]
    missing = [name for name in names if source.column_names.count(name) != 1]
    if missing:
        raise UnusableReferenceError(
            f"the table lacks features of the model {card.name!r}: {', '.join(missing[:10])}"
            f"{' ...' if len(missing) > 10 else ''}; it has {', '.join(source.column_names[:20])}"
        )
    for name, option in ((label_column, "label"), (time_column, "time")):
        if name is not None and name not in source.column_names:
            raise UnusableReferenceError(f"there is no {option} column {name!r} in the table")


def _values(source: pa.Table, column: Column, tensor: Tensor) -> pa.Array:
    """As a record has it: texts of a tensor of texts, else numbers; a category is its index."""
    values = source.column(column.name).combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if column.categories and (
        pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        known = pa.array(column.categories, pa.string())
        values = values.cast(pa.string())
        if tensor.datatype == "BYTES":
            return values
        strange = pc.filter(values, pc.invert(pc.is_in(values, value_set=known)))
        strange = strange.drop_null()
        if len(strange):
            raise UnusableReferenceError(
                f"column {column.name!r}: {strange[0].as_py()!r} is none of the model's categories "
                f"({', '.join(column.categories[:10])})"
            )
        values = pc.index_in(values, value_set=known)
    if tensor.datatype == "BYTES":
        return values.cast(pa.string())
    try:
        return values.cast(pa.float64())
    except pa.ArrowException:
        raise UnusableReferenceError(
            f"column {column.name!r}: the model takes numbers, the table has {values.type}"
        ) from None


def _predicted(
    columns: Mapping[str, pa.Array], card: ModelCard, predict: Callable[[Tensors], Tensors]
) -> dict[str, pa.Array]:
    rows = len(next(iter(columns.values())))
    parts: dict[str, list[NDArray[np.generic]]] = {}
    for start in range(0, rows, _ROWS):
        inputs = {
            tensor.name: _tensor(columns, tensor, start, min(start + _ROWS, rows))
            for tensor in card.inputs
        }
        for name, found in predict(inputs).items():
            parts.setdefault(name, []).append(found)
    made: dict[str, pa.Array] = {}
    for tensor in card.outputs:
        if not tensor.columns:
            continue
        if tensor.name not in parts:
            raise UnusableReferenceError(f"the network gives no output {tensor.name!r}")
        whole = np.concatenate(parts[tensor.name]).reshape(rows, len(tensor.columns))
        for index, column in enumerate(tensor.columns):
            values = whole[:, index]
            made[column.name] = (
                pa.array([_text(value) for value in values], pa.string())
                if values.dtype == object
                else pa.array(np.ascontiguousarray(values))
            )
    return made


def _tensor(
    columns: Mapping[str, pa.Array], tensor: Tensor, start: int, stop: int
) -> NDArray[np.generic]:
    if not tensor.columns:
        raise UnusableReferenceError(
            f"the input {tensor.name!r} has no columns: give the predictions in the table too"
        )
    dtype = np.dtype(_DTYPES[tensor.datatype])
    stacked = np.empty((stop - start, len(tensor.columns)), dtype)
    for index, column in enumerate(tensor.columns):
        values = columns[column.name].slice(start, stop - start)
        if dtype.kind not in "fO" and values.null_count:
            raise UnusableReferenceError(
                f"column {column.name!r} has missing values, which {tensor.datatype} has no word "
                "for: leave those rows out, or give the predictions in the table too"
            )
        stacked[:, index] = values.to_numpy(zero_copy_only=False)
    return stacked.reshape((stop - start, *tensor.shape[1:]))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
