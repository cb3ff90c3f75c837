"""Counts on frozen edges: the mergeable summary that all drift statistics are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histograms", "category_edges", "numeric_edges"]

#: Bins of a numeric feature. Ten is what the usual readings of PSI (0.1, 0.2) suppose.
BINS = 10
#: Rows counted at a time, so that what a pass makes is still in the cache for the next one.
_BLOCK = 1024

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

    @property
    def width(self) -> int:
        """Bins of the widest feature; narrower ones leave the rest of their row empty."""
        return max((edge.size for edge in self.edges), default=0) + 1

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which bins a feature has, [features, width]."""
        sizes = np.array([edge.size + 1 for edge in self.edges])
        return np.arange(self.width)[None, :] < sizes[:, None]

    def empty(self) -> Counts:
        """The counts of no rows."""
        return np.zeros((len(self.edges), self.width), dtype=np.int64)

    def count(self, rows: Floats) -> Counts:
        """Counts [features, width] of rows [n, features]; NaN is not counted."""
        counts = self.empty()
        for start in range(0, len(rows), _BLOCK):
            counts += self._count(rows[start : start + _BLOCK])
        return counts

    def _count(self, rows: Floats) -> Counts:
        features, width = len(self.edges), self.width
        columns = np.ascontiguousarray(rows.T)
        # A value's bin is the number of edges it reaches. Comparing with one edge after another
        # keeps to whole columns: three times as fast as a binary search for each value.
        bins = np.zeros(columns.shape, dtype=np.int32)
        for edge in self._padded.T:
            bins += columns >= edge[:, None]
        bins[np.isnan(columns)] = width
        bins += np.arange(features, dtype=np.int32)[:, None] * (width + 1)
        counts = np.bincount(bins.ravel(), minlength=features * (width + 1))
        return counts.reshape(features, width + 1)[:, :width]

    @cached_property
    def _padded(self) -> Floats:
        """Edges [features, width - 1]; a narrower feature's last ones are out of reach."""
        padded = np.full((len(self.edges), self.width - 1), np.nan)
        for row, edge in zip(padded, self.edges, strict=True):
            row[: edge.size] = edge
        return padded
