"""What a reference holds: how many windows, how long rows stay alike, which seasons it has seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._rows import matrix

__all__ = ["FeatureSummary", "ReferenceSummary", "summarise"]

#: Seasons of telemetry, in seconds. One is known when two of it were seen.
_SEASONS = {"daily": 86_400.0, "weekly": 7 * 86_400.0, "yearly": 365.25 * 86_400.0}
_CYCLES = 2.0
#: Rows that the likeness of neighbours is estimated from, at most; more say nothing new.
_MOST_ROWS = 200_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """One column of a reference."""

    name: str
    type: str
    missing: float
    """Share of the rows."""

    distinct: int
    low: float | None
    """1st percentile; None of a category, or without values."""

    median: float | None
    high: float | None
    """99th percentile."""

    alike_rows: float
    """Integrated autocorrelation time: rows that say as much as one independent row."""


@dataclass(frozen=True, slots=True)
class ReferenceSummary:
    """A reference as a person wants to know it."""

    rows: int
    windows: int
    window_rows: int
    labelled: int
    span_seconds: float | None
    """Between its first and last row; None without a time."""

    seasons: dict[str, bool]
    """Which seasons it has seen twice; empty without a time."""

    features: tuple[FeatureSummary, ...]

    @property
    def block_rows(self) -> float:
        """Rows of a contiguous block that are alike, of the feature that changes slowest."""
        return max((feature.alike_rows for feature in self.features), default=1.0)


def summarise(
    table: pa.Table, columns: tuple[Column, ...], *, window_rows: int
) -> ReferenceSummary:
    """Describe a reference whose rows are in time order."""
    values = matrix(table, columns)
    span = _span(table)
    labelled = 0
    if "true_label" in table.column_names:
        labelled = table.num_rows - table.column("true_label").null_count
    return ReferenceSummary(
        rows=table.num_rows,
        windows=table.num_rows // window_rows,
        window_rows=window_rows,
        labelled=labelled,
        span_seconds=span,
        seasons={}
        if span is None
        else {name: span >= _CYCLES * length for name, length in _SEASONS.items()},
        features=tuple(_feature(values[:, index], column) for index, column in enumerate(columns)),
    )


def _span(table: pa.Table) -> float | None:
    if "time" not in table.column_names or not table.num_rows:
        return None
    times = table.column("time")
    if pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())
        scale = 1e-6
    elif pa.types.is_integer(times.type) or pa.types.is_floating(times.type):
        scale = 1.0
    else:
        return None
    return float((times[-1].as_py() - times[0].as_py()) * scale)


def _feature(values: Floats, column: Column) -> FeatureSummary:
    present = values[np.isfinite(values)]
    low = median = high = None
    if column.type == "numeric" and present.size:
        low, median, high = (float(x) for x in np.quantile(present, (0.01, 0.5, 0.99)))
    return FeatureSummary(
        name=column.name,
        type=column.type,
        missing=1 - present.size / max(values.size, 1),
        distinct=int(np.unique(present).size),
        low=low,
        median=median,
        high=high,
        alike_rows=autocorrelation_time(present[-_MOST_ROWS:]),
    )


def autocorrelation_time(values: Floats) -> float:
    """`1 + 2 * sum of the autocorrelations`, up to the first lag pair whose sum is not positive.

    The variance of a mean of n rows is so many times what it is of independent ones.

    Source: Geyer, "Practical Markov chain Monte Carlo", 1992 (the initial positive sequence).

    >>> round(autocorrelation_time(np.random.default_rng(1).standard_normal(20_000)))
    1
    """
    if values.size < 8 or np.ptp(values) == 0:
        return 1.0
    centred = values - values.mean()
    size = 1 << (2 * values.size - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    covariance = np.fft.irfft(spectrum, size)[: values.size]
    correlation = covariance / covariance[0]
    pairs = correlation[1 : values.size // 2 * 2 - 1].reshape(-1, 2).sum(axis=1)
    ended = np.flatnonzero(pairs <= 0)
    upto = int(ended[0]) if ended.size else pairs.size
    return float(max(1.0, 1.0 + 2.0 * pairs[:upto].sum()))
