"""Counts on frozen edges: the mergeable summary that all drift statistics are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.sketches._search import lower_bounds

__all__ = ["BINS", "Histograms", "category_edges", "fine_edges", "numeric_edges", "pooled"]

#: Coarse bins of a numeric feature. Ten is what the usual readings of PSI (0.1, 0.2) suppose.
BINS = 10
#: Fine bins between two edges of the coarse ones, for distances that ten bins see too little of.
_FINER = 2
#: Distances of the outer edges from the tenth of the values that lies outside, in the range of the
#: nine tenths within: what lies far away is told from what lies near, by a factor.
_BEYOND = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
#: Rows sorted at a time, and values counted: a pass finds in the cache what the last one made.
_BLOCK = 4096
_AT_ONCE = 160_000

#: A part of rows: its number, and where in them it starts and ends.
_Part = tuple[int, int, int]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def numeric_edges(values: Floats) -> Floats:
    """Inner edges that put about a tenth of `values` in each bin; NaN is ignored.

    A feature with few distinct values gets a bin of its own for each, and empty bins outside them,
    so that a constant that changes is seen.
    """
    present = values[np.isfinite(values)]
    if present.size == 0:
        return np.zeros(1)
    distinct = np.unique(present)
    if distinct.size <= BINS:
        middles = (distinct[1:] + distinct[:-1]) / 2
        outside = np.nextafter(distinct[-1], np.inf)
        return np.unique(np.concatenate([distinct[:1], middles, [outside]]))
    return np.unique(np.quantile(present, np.arange(1, BINS) / BINS))


def fine_edges(values: Floats, coarse: Floats) -> Floats:
    """The `coarse` edges, more of them between, and some beyond the extremes of `values`."""
    present = values[np.isfinite(values)]
    if present.size == 0:
        return coarse
    steps = BINS * _FINER
    between = np.quantile(present, np.arange(1, steps) / steps)
    low, high = float(present.min()), float(present.max())
    beyond = _BEYOND * (between[-1] - between[0] or (high - low) / 2 or max(abs(low), 1.0))
    # What is larger than all that the reference has is told from its largest value.
    extremes = [low, np.nextafter(high, np.inf)]
    outside = np.concatenate([between[0] - beyond, extremes, between[-1] + beyond])
    return np.unique(np.concatenate([coarse, between, outside]))


def category_edges(categories: int) -> Floats:
    """Inner edges that give each category index its bin, and unknown indices the last one."""
    return np.arange(categories, dtype=np.float64) + 0.5


@dataclass(frozen=True)
class Histograms:
    """How to count the features of a stream; the counts of two parts of it add up.

    >>> sketch = Histograms(edges=(numeric_edges(np.arange(100.0)), category_edges(2)))
    >>> sketch.count(np.array([[5.0, 0.0], [95.0, 1.0], [np.nan, 7.0]]))[:, :3]
    array([[1, 0, 0],
           [1, 1, 1]])
    """

    edges: tuple[Floats, ...]

    @cached_property
    def width(self) -> int:
        """Bins of the widest feature; narrower ones leave the rest of their row empty."""
        return max((edge.size for edge in self.edges), default=0) + 1

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Which bins a feature has, [features, width]."""
        sizes = np.array([edge.size + 1 for edge in self.edges])
        return np.arange(self.width)[None, :] < sizes[:, None]

    def empty(self) -> Counts:
        """The counts of no rows."""
        return np.zeros((len(self.edges), self.width), dtype=np.int64)

    def count(self, rows: Floats) -> Counts:
        """Counts [features, width] of rows [n, features]; NaN is not counted."""
        return np.asarray(self.counts(rows, [len(rows)])[0])

    def counts(self, rows: Floats, ends: Sequence[int]) -> Counts:
        """Counts [parts, features, width] of each part of the rows, which go up to these ends.

        Many parts are counted at once, since what numpy does costs by the call.
        """
        below = np.zeros((len(ends), len(self.edges), self.width), dtype=np.int64)
        for group in _groups(ends, rows=max(_AT_ONCE // max(len(self.edges), 1), 1)):
            found = self._below(rows, group)
            for (part, _, _), each in zip(group, found, strict=True):
                below[part] += each
        below[..., 1:] -= below[..., :-1].copy()
        return below

    def _below(self, rows: Floats, parts: Sequence[_Part]) -> Counts:
        """How many values of each part's columns [parts, features, width] are below each edge.

        Sorting a column and finding the edges in it takes a fraction of the time of finding every
        value among the edges: numpy sorts several values with one instruction, and of those of
        half the size twice as many. Rounding keeps the order of values but for those that become
        equal: where one becomes equal to an edge, the column is looked at again.
        """
        first = parts[0][1]
        columns = rows[first : parts[-1][2]].T
        with np.errstate(over="ignore"):  # what is beyond the largest number becomes infinite
            short = columns.astype(np.float32, order="C")
        sizes = np.array([end - start for _, start, end in parts])
        starts = np.array([start - first for _, start, _ in parts])
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            short[:, start : start + size].sort(axis=1)
        origins = starts[:, None] + np.arange(len(short)) * short.shape[1]
        below = lower_bounds(short.ravel(), self._short, origins=origins, sizes=sizes)
        beside = np.minimum(below, sizes[:, None, None] - 1) + origins[..., None]
        doubtful = short.take(beside) == self._short
        if doubtful.any():
            for place, index in np.argwhere(doubtful.any(axis=2)).tolist():
                own = slice(starts[place], starts[place] + sizes[place])
                below[place, index] = self._exactly(index, columns[index, own], short[index, own])
        return below

    def _exactly(self, index: int, column: Floats, short: NDArray[np.float32]) -> Counts:
        """As `_below` for one column, whose sorted values are `short` after rounding."""
        with np.errstate(over="ignore"):
            same = np.array_equal(column.astype(np.float32), column, equal_nan=True)
        if same:
            return np.asarray(short.searchsorted(self._next[index]))
        return np.asarray(np.sort(column).searchsorted(self._padded[index]))

    @cached_property
    def _short(self) -> NDArray[np.float32]:
        """Rounded edges [features, width]."""
        with np.errstate(over="ignore"):
            return self._padded.astype(np.float32)

    @cached_property
    def _next(self) -> NDArray[np.float32]:
        """The smallest short numbers [features, width] that are not below the edges."""
        above = np.nextafter(self._short, np.float32(np.inf))
        return np.where(self._short < self._padded, above, self._short)

    @cached_property
    def _padded(self) -> Floats:
        """Edges [features, width]; from a row's own end on NaN, which is where missing values are.

        Missing values are sorted to the end of a column, so that what is below the first of them
        is all there is.
        """
        padded = np.full((len(self.edges), self.width), np.nan)
        for row, edge in zip(padded, self.edges, strict=True):
            row[: edge.size] = edge
        return padded

    def pooling(self, coarse: Histograms) -> NDArray[np.intp]:
        """For `pooled`: where in a row of cumulative counts the bins of `coarse` end.

        `coarse` has some of our edges.
        """
        places = np.zeros((len(self.edges), coarse.width + 1), dtype=np.intp)
        for row, fine, edge in zip(places, self.edges, coarse.edges, strict=True):
            row[1 : edge.size + 1] = fine.searchsorted(edge) + 1
            row[edge.size + 1 :] = self.width
        return places


def pooled(counts: Counts, places: NDArray[np.intp]) -> Counts:
    """Fine counts [..., features, width] as counts of the bins that `Histograms.pooling` gave."""
    below = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1), dtype=np.int64)
    np.cumsum(counts, axis=-1, out=below[..., 1:])
    features = np.arange(places.shape[0])[:, None]
    reached = below[..., features, places]
    return np.asarray(reached[..., 1:] - reached[..., :-1])


def _groups(ends: Sequence[int], *, rows: int) -> Iterator[list[_Part]]:
    """The parts that go up to these ends, cut into pieces, some of which have `rows` together.

    None is empty.
    """
    group: list[_Part] = []
    start = held = 0
    for part, end in enumerate(ends):
        while start < end:
            size = min(end - start, _BLOCK)
            if group and held + size > rows:
                yield group
                group, held = [], 0
            group.append((part, start, start + size))
            start, held = start + size, held + size
    if group:
        yield group
