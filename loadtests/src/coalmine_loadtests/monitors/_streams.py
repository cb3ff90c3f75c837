"""Public streams, given as a file: where each method alarms, at an equal rate on its beginning."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine_loadtests.monitors._detectors import Method, Worker
from coalmine_loadtests.monitors._errors import MonitorBenchError
from coalmine_loadtests.monitors._scores import threshold_for

__all__ = ["StreamFile", "judge_stream", "read_stream"]

Floats = NDArray[np.float64]

#: Share of a stream that is its reference, if nobody says how many rows are.
_REFERENCE_SHARE = 0.25
#: Windows that the reference must have, to fit on one half and to set thresholds on the other.
_FEWEST = 20


@dataclass(frozen=True, slots=True)
class StreamFile:
    """A stream, the rows in the order in which they came."""

    name: str
    rows: Floats
    columns: tuple[str, ...]
    left_out: tuple[str, ...]
    """Columns that hold no numbers."""

    changes: tuple[int, ...]
    """Rows at which something is known to change."""


def read_stream(
    path: Path, *, label_column: str | None = None, changes: tuple[int, ...] = ()
) -> StreamFile:
    """A CSV with a header; MonitorBenchError says what is wrong with it.

    `label_column` is left out, as are columns that hold anything but numbers (empty is missing).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            records = [record for record in reader if record]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MonitorBenchError(f"--stream {path}: not a CSV in UTF-8: {error}") from None
    if label_column is not None and label_column not in header:
        raise MonitorBenchError(
            f"--label-column {label_column}: {path} has the columns {', '.join(header[:20])}"
        )
    if any(len(record) != len(header) for record in records):
        raise MonitorBenchError(f"--stream {path}: not every row has {len(header)} values")
    columns: dict[str, Floats] = {}
    left_out = []
    for index, name in enumerate(header):
        if name == label_column:
            continue
        try:
            values = np.array([float(record[index] or "nan") for record in records])
        except ValueError:
            left_out.append(name)
            continue
        if np.isfinite(values).any() and np.nanstd(values) > 0:
            columns[name] = np.where(np.isfinite(values), values, np.nanmedian(values))
        else:
            left_out.append(name)
    if not columns:
        raise MonitorBenchError(f"--stream {path}: no column of numbers in it")
    late = [row for row in changes if not 0 < row < len(records)]
    if late:
        raise MonitorBenchError(f"--change {late[0]}: the stream has {len(records)} rows")
    return StreamFile(
        name=path.stem,
        rows=np.column_stack(list(columns.values())),
        columns=tuple(columns),
        left_out=tuple(left_out),
        changes=tuple(sorted(changes)),
    )


def judge_stream(
    worker: Worker,
    method: Method,
    stream: StreamFile,
    *,
    window: int,
    reference_rows: int | None,
    run_length: float,
) -> dict[str, Any]:
    """Where a method alarms, in rows of the stream, and how soon after each known change.

    The reference is the stream's beginning. The method is fitted on its first half; on the other
    half, where nothing is supposed to happen, its threshold is set for the run length (or just
    above all of it, where that is shorter). Then it is fitted on all of it.
    """
    wanted = reference_rows or int(len(stream.rows) * _REFERENCE_SHARE)
    count = wanted // window
    if count < _FEWEST or len(stream.rows) < (count + 2) * window:
        raise MonitorBenchError(
            f"{stream.name}: {wanted} rows of reference are {count} windows of {window}; it takes "
            f"{_FEWEST}, and two windows behind them (--reference-rows, --window)"
        )
    cut, half = count * window, count // 2 * window
    quiet = worker.ask(
        "scores",
        arrays={"reference": stream.rows[:half], "stream": stream.rows[half:cut]},
        method=method.method,
        window=window,
    )
    threshold = threshold_for([quiet["scores"]], target=run_length)
    found = worker.ask(
        "scores",
        arrays={"reference": stream.rows[:cut], "stream": stream.rows[cut:]},
        method=method.method,
        window=window,
    )
    alarms = [
        cut + (at + 1) * window
        for at, score in enumerate(found["scores"])
        if score >= threshold and (at == 0 or found["scores"][at - 1] < threshold)
    ]
    windows = len(found["scores"])
    return {
        "windows": windows,
        "share": sum(score >= threshold for score in found["scores"]) / windows,
        "alarms": alarms,
        "delays": {
            str(change): min((row - change for row in alarms if row > change), default=None)
            for change in stream.changes
            if change >= cut
        },
    }
