"""Calibration: the reference is cut into contiguous windows that say what is usual."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from coalmine.modeldir import Column
from coalmine.spec import SegmentColumnSpec
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._rows import matrix
from coalmine_monitors.detectors import Baseline
from coalmine_monitors.drift._reference import Reference, Usual, Watched, make_part
from coalmine_monitors.drift._season import Season, fit_season
from coalmine_monitors.drift._segments import Segments, fit_segments
from coalmine_monitors.drift._statistics import (
    DISTANCES,
    LOCATION,
    Against,
    location_shift,
    null_location,
)
from coalmine_monitors.drift._streams import Extend, Extension
from coalmine_monitors.drift._tumbling import Tumbling
from coalmine_monitors.sketches import (
    Histograms,
    Quantiles,
    category_edges,
    fine_edges,
    numeric_edges,
    thinned,
)

__all__ = ["MIN_WINDOWS", "build_reference", "build_segments", "calibrate"]

#: Fewer contiguous windows than this say nothing about what is usual.
MIN_WINDOWS = 10
#: A feature's own swings on the reference, up to this quantile of its windows, are no effect.
SWING = 0.95
_NORMAL_SWING = 1.645
#: What evidence is gathered of, unless the service file says otherwise.
DEFAULT_STATISTICS = ("psi", LOCATION)
#: Rows that correlations are computed from: enough for two digits.
_CORRELATED = 5000
#: Share of a reference below which its values do not say where the others of a bin will be.
_FEW = 0.01
#: Fewest rows of a segment's windows.
_SEGMENT_ROWS = 50
#: Column of a reference with the time of each row.
TIME = "time"

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def build_reference(
    table: pa.Table,
    columns: tuple[Column, ...],
    *,
    window_rows: int,
    min_effect: float,
    seconds: float | None = None,
    statistics: tuple[str, ...] = DEFAULT_STATISTICS,
    season: float | None = None,
    extend: Extend | None = None,
) -> Reference:
    """Calibrate on a table whose rows are in time order.

    Each contiguous window is compared with the rest of the reference, its two neighbours left out:
    they are alike, and the traffic to come will be no neighbour. With `season` (seconds), which
    takes a column `time`, it is compared with the others of its phase. With `seconds` windows are
    cut by that column, as the traffic's are. UnusableReferenceError if there are fewer than
    `MIN_WINDOWS` windows.
    """
    return calibrate(
        matrix(table, columns),
        Watched(columns, statistics),
        times=reference_times(table),
        tumbling=Tumbling(window_rows, seconds),
        min_effect=min_effect,
        season=season,
        extend=extend,
    )


def build_segments(
    table: pa.Table,
    columns: tuple[Column, ...],
    by: Iterable[tuple[SegmentColumnSpec, Column]],
    *,
    window_rows: int,
    min_effect: float,
    seconds: float | None = None,
    statistics: tuple[str, ...] = DEFAULT_STATISTICS,
    season: float | None = None,
    alone: bool = False,
) -> Segments:
    """References of the parts that some columns `by` cut the same table into.

    A segment's windows have its share of `window_rows`, so that it has as many of them as all rows
    have. With `alone` all rows together are not judged.
    """
    specs = tuple(by)
    further = tuple(column for _, column in specs if column not in columns)
    rows, times = matrix(table, columns + further), reference_times(table)

    def part(mine: NDArray[np.intp]) -> Reference:
        return calibrate(
            rows[mine, : len(columns)],
            Watched(columns, statistics),
            times=None if times is None else times[mine],
            tumbling=Tumbling(
                max(-(-window_rows * len(mine) // len(rows)), _SEGMENT_ROWS), seconds
            ),
            min_effect=min_effect,
            season=season,
        )

    return fit_segments(
        rows,
        columns + further,
        watched=len(columns),
        by=tuple(spec for spec, _ in specs),
        calibrate=part,
        alone=alone,
    )


def reference_times(table: pa.Table) -> Floats | None:
    """When the rows were, in seconds since the epoch; None if nobody wrote it down."""
    if TIME not in table.column_names:
        return None
    column = table.column(TIME)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        return np.asarray(column.to_numpy() / 1e6, dtype=np.float64)
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def calibrate(
    rows: Floats,
    watched: Watched,
    *,
    times: Floats | None,
    tumbling: Tumbling,
    min_effect: float,
    season: float | None = None,
    extend: Extend | None = None,
) -> Reference:
    """The reference that rows [n, columns], in time order, make."""
    by_count = Tumbling(tumbling.rows) if times is None else tumbling
    cuts = by_count.cut(np.zeros(len(rows)) if times is None else times)
    if len(cuts) < MIN_WINDOWS:
        raise UnusableReferenceError(
            f"{len(rows)} rows are {len(cuts)} windows of {tumbling.rows}; it takes {MIN_WINDOWS}"
        )
    kept = rows[: cuts[-1].stop]
    histograms, bins = _edges(kept, watched.columns)
    centres = _centres(kept, histograms)
    windows = [rows[cut] for cut in cuts]
    parts = np.stack([histograms.count(part) for part in windows])
    starts, ends = _bounds(times, cuts)
    phased, warnings = fit_season(season, starts=starts, ends=ends)
    phases = _phases(phased, starts, ends, count=len(cuts))
    mean, deviation = _moments(kept)

    def made(fine: Counts) -> Against:
        return make_part(fine, histograms, bins, centres, deviation)

    past = _Past(parts, made(parts).coarse, made(_rest(parts, phases)))
    whole = made(parts.sum(axis=0))
    extension = extend([thinned(part)[0] for part in windows]) if extend else None
    typical = int(np.median([cut.stop - cut.start for cut in cuts]))
    shift = location_shift(past.coarse, past.rest.scores)
    return Reference(
        watched=watched,
        window_rows=tumbling.rows,
        histograms=histograms,
        bins=bins,
        parts=tuple(made(parts[phases == phase].sum(axis=0)) for phase in range(phases.max() + 1)),
        baseline=_baseline(past, watched, whole=whole, window=typical, extension=extension),
        usual={name: _usual(name, past, whole=whole, window=typical) for name in DISTANCES},
        min_effect=min_effect,
        location=(shift.mean(axis=0), shift.std(axis=0, ddof=1)),
        centres=centres,
        mean=mean,
        deviation=deviation,
        correlation=_rank_correlation(kept[:: -(-len(kept) // _CORRELATED)]),
        rows=len(kept),
        missing=np.isnan(kept).mean(axis=0),
        quantiles=tuple(
            _quantiles(kept[:, index]) if column.type == "numeric" else None
            for index, column in enumerate(watched.columns)
        ),
        season=phased,
        warnings=warnings,
        extension=extension,
    )


@dataclass(frozen=True)
class _Past:
    """The reference's windows [windows, features, bins], and for each what it is compared with."""

    fine: Counts
    coarse: Counts
    rest: Against


def _rest(parts: Counts, phases: NDArray[np.intp]) -> Counts:
    """For each window the others of its phase, without its neighbours."""
    rest = np.empty_like(parts)
    for index, phase in enumerate(phases):
        same = phases == phase
        same[max(index - 1, 0) : index + 2] = False
        rest[index] = parts[same].sum(axis=0)
    return rest


def _usual(name: str, past: _Past, *, whole: Against, window: int) -> Usual:
    statistic = DISTANCES[name]
    values = statistic.compute(past.fine, past.coarse, past.rest)
    null, spread = statistic.null(whole, window)
    # Back from what is nearly normal: the cube, of a cube root.
    back = 1 if statistic.transform(np.array(8.0)) == 8.0 else 3
    bias = np.maximum(values.mean(axis=0), null**back)
    swing = np.quantile(values - bias, SWING, axis=0, method="higher")
    # Few windows say little of their own extremes; independent rows would have these.
    return Usual(bias, np.maximum(swing, (null + _NORMAL_SWING * spread) ** back - bias))


def _baseline(
    past: _Past, watched: Watched, *, whole: Against, window: int, extension: Extension | None
) -> Baseline:
    nulls = {
        name: null_location(whole.coarse, window=window)
        if name == LOCATION
        else DISTANCES[name].null(whole, window)
        for name in watched.statistics
    }
    values = watched.streams(past.fine, past.coarse, past.rest)
    mean = watched.row({name: null[0] for name, null in nulls.items()})
    spread = watched.row({name: null[1] for name, null in nulls.items()})
    two_sided = np.repeat(
        [name == LOCATION for name in watched.statistics],
        [watched.features(name).size for name in watched.statistics],
    )
    if extension is not None:
        values = np.hstack([values, extension.past])
        mean = np.concatenate([mean, extension.floor[0]])
        spread = np.concatenate([spread, extension.floor[1]])
        two_sided = np.concatenate([two_sided, extension.two_sided])
    return Baseline.fit(values, floor=(mean, spread), two_sided=two_sided)


def _edges(rows: Floats, columns: tuple[Column, ...]) -> tuple[Histograms, Histograms]:
    """Fine and coarse ones. Categories are what they are."""

    def made() -> Iterator[tuple[Floats, Floats]]:
        for index, column in enumerate(columns):
            if column.categories:
                edges = category_edges(len(column.categories))
                yield edges, edges
            else:
                coarse = numeric_edges(rows[:, index])
                yield fine_edges(rows[:, index], coarse), coarse

    fine, coarse = zip(*made(), strict=True)
    return Histograms(edges=fine), Histograms(edges=coarse)


def _centres(rows: Floats, histograms: Histograms) -> Floats:
    """Mean value of each bin [features, bins]; the middle of those that the reference has few of.

    Unused bins repeat the last, so that nothing lies between them.
    """
    centres = np.zeros((len(histograms.edges), histograms.width))
    for column, edges, row in zip(rows.T, histograms.edges, centres, strict=True):
        size = edges.size + 1
        present = column[np.isfinite(column)]
        place = edges.searchsorted(present, side="right")
        count = np.bincount(place, minlength=size)
        total = np.bincount(place, weights=present, minlength=size)
        middle = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
        row[:size] = np.where(count > _FEW * len(present), total / np.maximum(count, 1), middle)
        row[size:] = row[size - 1]
    return centres


def _moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column, 0 where there is no finite value."""
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=0), 1)
    values = np.where(known, rows, 0.0)
    mean = values.sum(axis=0) / count
    away = np.where(known, rows - mean, 0.0)
    return mean, np.sqrt((away**2).sum(axis=0) / count)


def _rank_correlation(rows: Floats) -> Floats:
    """Spearman's [columns, columns], of rows [n, columns]; a constant hangs together with nothing.

    Missing values count as the mean.
    """
    mean, _ = _moments(rows)
    values = stats.rankdata(np.where(np.isfinite(rows), rows, mean), axis=0)
    values -= values.mean(axis=0)
    size = np.sqrt((values**2).sum(axis=0))
    size[size == 0] = 1.0
    values /= size
    correlation = values.T @ values
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)


def _quantiles(values: Floats) -> Quantiles:
    sketch = Quantiles()
    sketch.update(values)
    return sketch


def _bounds(times: Floats | None, cuts: list[slice]) -> tuple[Floats | None, Floats | None]:
    """When each window began and ended."""
    if times is None:
        return None, None
    first = np.array([times[cut].min() for cut in cuts])
    return first, np.array([times[cut].max() for cut in cuts])


def _phases(
    season: Season, starts: Floats | None, ends: Floats | None, *, count: int
) -> NDArray[np.intp]:
    """The phase [windows] of each window of the reference."""
    if starts is None or ends is None:
        return np.zeros(count, dtype=np.intp)
    return np.array([season.phase(at) or 0 for at in (starts + ends) / 2], dtype=np.intp)
