"""What a training set holds, in numbers, and how two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from coalmine.retraining.learning import META_COLUMNS, TRUE_LABEL

if TYPE_CHECKING:
    import pyarrow as pa


def summarise(rows: pa.Table) -> dict[str, Any]:
    """Rows, columns, time range, classes, splits, rows by UTC day, and each feature in numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    times = rows.column("time").to_numpy()
    micros = pa.array(np.round(times * 1e6).astype(np.int64), pa.timestamp("us", tz="UTC"))
    days = pc.strftime(micros, format="%Y-%m-%d").to_pylist()
    origin, split = rows.column("origin").to_pylist(), rows.column("split").to_pylist()
    recent = Counter(day for day, where in zip(days, origin, strict=True) if where == "recent")
    return {
        "rows": rows.num_rows,
        "columns": {field.name: str(field.type) for field in rows.schema},
        "time": [float(times.min()), float(times.max())] if len(times) else None,
        "classes": _sorted(Counter(rows.column(TRUE_LABEL).to_pylist())),
        "splits": _sorted(Counter(f"{o}/{s}" for o, s in zip(origin, split, strict=True))),
        "days": _sorted(recent),
        "features": {
            name: _feature(rows.column(name).to_numpy())
            for name in rows.column_names
            if name not in META_COLUMNS
        },
    }


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """From one summary to another: what came, what went, and how far each feature has moved.

    A feature's `shift` is the difference of the means in pooled standard deviations (Cohen's d);
    the largest come first.
    """
    before, after = first["features"], second["features"]
    moved = {name: _moved(before[name], after[name]) for name in before if name in after}
    order = sorted(moved, key=lambda name: -abs(moved[name]["shift"] or 0.0))
    return {
        "rows": [first["rows"], second["rows"]],
        "time": [first["time"], second["time"]],
        "columns_added": sorted(set(second["columns"]) - set(first["columns"])),
        "columns_removed": sorted(set(first["columns"]) - set(second["columns"])),
        "columns_retyped": {
            name: [kind, second["columns"][name]]
            for name, kind in first["columns"].items()
            if second["columns"].get(name, kind) != kind
        },
        "classes": _both(first["classes"], second["classes"]),
        "splits": _both(first["splits"], second["splits"]),
        "features": {name: moved[name] for name in order},
    }


def _feature(values: np.ndarray) -> dict[str, float | None]:
    numbers = values.astype(np.float64)
    present = numbers[np.isfinite(numbers)]
    if not len(present):
        return {"missing": 1.0, "mean": None, "std": None, "lowest": None, "highest": None}
    return {
        "missing": round(1.0 - len(present) / len(numbers), 6),
        "mean": float(present.mean()),
        "std": float(present.std()),
        "lowest": float(present.min()),
        "highest": float(present.max()),
    }


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    shift = None
    if before["mean"] is not None and after["mean"] is not None:
        pooled = sqrt((before["std"] ** 2 + after["std"] ** 2) / 2)
        step = after["mean"] - before["mean"]
        # Two different constants are as far apart as can be, but JSON has no infinity.
        shift = step / pooled if pooled > 0.0 else float(np.sign(step)) * 1e9
    return {
        "shift": shift,
        "mean": [before["mean"], after["mean"]],
        "std": [before["std"], after["std"]],
        "missing": [before["missing"], after["missing"]],
    }


def _both(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, list[int]]:
    return {name: [first.get(name, 0), second.get(name, 0)] for name in {**first, **second}}


def _sorted(counts: Counter[Any]) -> dict[str, int]:
    return {str(name): counts[name] for name in sorted(counts, key=str)}
