"""Telemetry as a table: one row per window, one column per reading, in Parquet and CSV alike.

Columns: `vehicle` and `upload` (whole numbers), `day` (of the window's end), `label` (the name of a
class), `label_delay_days` (may be left out: 0), and the transformer's inputs, flattened:
`cell_voltage_t00_c0` is the first reading of the first cell, `temperature_t00_s0` and `current_t00`
likewise, `soc` stands alone. An empty reading is a missing one.

TelemetryError    the file cannot be used; the message names the column and what is allowed
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from coalmine.apps.ev_battery._telemetry import Telemetry
from coalmine.apps.ev_battery._world import CLASSES
from coalmine.protocol import Array, TensorSpec
from coalmine_transformers.battery import BatteryTransformer

_AXES = {"cell_voltage": "c", "temperature": "s"}
_SHOWN = 5


class TelemetryError(ValueError):
    """Telemetry that cannot be read; the message names the column."""


def read_telemetry(path: Path) -> Telemetry:
    """Read a `.parquet` or `.csv` file; `TelemetryError` says what is wrong with it."""
    readers = {".parquet": pq.read_table, ".csv": pyarrow.csv.read_csv}
    if path.suffix not in readers:
        raise TelemetryError(f"{path}: telemetry is a .parquet or a .csv file")
    try:
        table = readers[path.suffix](path)
    except (OSError, pa.ArrowInvalid) as error:
        raise TelemetryError(f"{path}: cannot be read: {error}") from error
    try:
        return from_table(table)
    except TelemetryError as error:
        raise TelemetryError(f"{path}: {error}") from None


def write_telemetry(path: Path, telemetry: Telemetry) -> None:
    """Write a `.parquet` or `.csv` file that `read_telemetry` reads back exactly."""
    if path.suffix == ".parquet":
        pq.write_table(to_table(telemetry), path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(to_table(telemetry), path)
    else:
        raise TelemetryError(f"{path}: telemetry is a .parquet or a .csv file")


def reading_columns(spec: TensorSpec) -> list[str]:
    """The columns of one of the transformer's inputs, in the order of its elements.

    >>> reading_columns(TensorSpec("current", "FP32", (-1, 2)))
    ['current_t00', 'current_t01']
    """
    second = _AXES.get(spec.name, "")
    names = []
    for place in product(*(range(size) for size in spec.shape[1:])):
        marks = [f"t{place[0]:02d}", *(f"{second}{at}" for at in place[1:])] if place else []
        names.append("_".join([spec.name, *marks]))
    return names


def to_table(telemetry: Telemetry) -> pa.Table:
    """One row per window; NaN becomes null."""
    columns: dict[str, pa.Array] = {
        "vehicle": pa.array(telemetry.vehicle),
        "upload": pa.array(telemetry.upload),
        "day": pa.array(telemetry.day),
        "label": pa.array(telemetry.label_names, pa.string()),
        "label_delay_days": pa.array(telemetry.label_delay_days),
    }
    for spec in BatteryTransformer.inputs:
        names = reading_columns(spec)
        flat = telemetry.raw[spec.name].reshape(len(telemetry), len(names))
        for index, name in enumerate(names):
            columns[name] = pa.array(flat[:, index], from_pandas=True)
    return pa.table(columns)


def from_table(table: pa.Table) -> Telemetry:
    """Check every column and make Telemetry of them, uploads in time order."""
    needed = ["vehicle", "upload", "day", "label"]
    needed += [name for spec in BatteryTransformer.inputs for name in reading_columns(spec)]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise TelemetryError(f"missing column: {', '.join(missing[:_SHOWN])}{more}")
    if not table.num_rows:
        raise TelemetryError("no rows")
    raw = {
        spec.name: np.stack(
            [_numbers(table, name, pa.float32()) for name in reading_columns(spec)], axis=1
        ).reshape(-1, *spec.shape[1:])
        for spec in BatteryTransformer.inputs
    }
    delays = "label_delay_days"
    if delays not in table.column_names:
        table = table.append_column(delays, pa.array(np.zeros(table.num_rows)))
    telemetry = Telemetry(
        vehicle=_complete(table, "vehicle", pa.int64()),
        upload=_complete(table, "upload", pa.int64()),
        day=_complete(table, "day", pa.float64()),
        raw=raw,
        label=_labels(table),
        label_delay_days=_complete(table, delays, pa.float64()),
    )
    return _in_order(telemetry)


def _in_order(telemetry: Telemetry) -> Telemetry:
    """An upload's windows together, and uploads in the order of their ends."""
    _, place = np.unique(telemetry.upload, return_inverse=True)
    end = np.full(place.max() + 1, -np.inf)
    np.maximum.at(end, place, telemetry.day)
    order = np.lexsort((telemetry.day, telemetry.upload, end[place]))
    sorted_already = bool((np.diff(order) == 1).all())
    return telemetry if sorted_already else telemetry.select(order)


def _numbers(table: pa.Table, name: str, kind: pa.DataType) -> Array:
    """A column as numbers of a type; null is NaN."""
    try:
        column = pc.cast(table.column(name), kind, safe=not pa.types.is_floating(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        found = table.column(name).type
        raise TelemetryError(f"column {name}: {found} is not a number ({error})") from error
    values: Array = column.to_numpy()
    if pa.types.is_floating(kind) and np.isinf(values).any():
        raise TelemetryError(f"column {name}: row {int(np.isinf(values).argmax())} is infinite")
    return values


def _complete(table: pa.Table, name: str, kind: pa.DataType) -> Array:
    column = table.column(name)
    if column.null_count:
        row = int(column.is_null().to_numpy().argmax())
        raise TelemetryError(f"column {name}: row {row} is empty")
    values = _numbers(table, name, kind)
    if not np.isfinite(values).all():
        raise TelemetryError(f"column {name}: row {int(np.isnan(values).argmax())} is not a number")
    return values


def _labels(table: pa.Table) -> Array:
    column = table.column("label")
    index = pc.index_in(column, pa.array(CLASSES)) if pa.types.is_string(column.type) else None
    if index is None or index.null_count:
        row = 0 if index is None else int(index.is_null().to_numpy().argmax())
        raise TelemetryError(
            f"column label: row {row} is {column[row].as_py()!r}; allowed: {', '.join(CLASSES)}"
        )
    labels: Array = index.to_numpy().astype(np.int64)
    return labels
