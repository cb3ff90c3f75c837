"""Counts on frozen edges: the mergeable summary that all drift statistics are computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histograms", "category_edges", "numeric_edges"]

#: Bins of a numeric feature. Ten is what the usual readings of PSI (0.1, 0.2) suppose.
BINS = 10

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
        for index, edge in enumerate(self.edges):
            column = rows[:, index]
            bins = np.searchsorted(edge, column[~np.isnan(column)], side="right")
            counts[index] = np.bincount(bins, minlength=self.width)
        return counts
