"""What is kept of a window of rows: counts, and, for who needs rows, an even sample of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.sketches._histogram import Histograms

__all__ = ["SAMPLE_ROWS", "Summary", "WindowSketch", "summaries", "thinned"]

#: Most rows kept of a window: as many say what a classifier can find out.
SAMPLE_ROWS = 512

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def thinned(rows: Floats, *, stride: int = 1) -> tuple[Floats, int]:
    """Every second row, as often as it takes for `SAMPLE_ROWS`; and `stride` times what that left.

    >>> kept, stride = thinned(np.zeros((10_000, 2)))
    >>> len(kept), stride
    (313, 32)
    """
    while len(rows) > SAMPLE_ROWS:
        rows, stride = rows[::2], stride * 2
    return rows, stride


class Summary(NamedTuple):
    """What is told of some rows."""

    counts: Counts
    first: float
    """Oldest record time."""

    last: float


def summaries(
    histograms: Histograms, rows: Floats, at: Floats, ends: Sequence[int]
) -> list[Summary]:
    """Of each part of the rows [n, columns], at times [n], which go up to these ends.

    None is empty. Told of many at once, they cost less.
    """
    counts = histograms.counts(rows[:, : len(histograms.edges)], ends)
    starts = [0, *ends[:-1]]
    first, last = np.minimum.reduceat(at, starts), np.maximum.reduceat(at, starts)
    return [Summary(*parts) for parts in zip(counts, first.tolist(), last.tolist(), strict=True)]


@dataclass(frozen=True)
class WindowSketch:
    """A part of a window. Parts add up with `+`, in whatever order they come.

    >>> histograms = Histograms(edges=(np.array([0.0]),))
    >>> part = WindowSketch.empty(histograms).after(np.array([[-1.0], [2.0]]), np.array([5.0, 6.0]))
    >>> whole = part + part
    >>> whole.counts.tolist(), whole.rows, whole.first, whole.last
    ([[2, 2]], 4, 5.0, 6.0)
    """

    histograms: Histograms
    counts: Counts
    """[features, bins]; missing values are what is lacking to `rows`."""

    rows: int = 0
    first: float = math.inf
    """Oldest record time, seconds since the epoch."""

    last: float = -math.inf
    sample: Floats | None = None
    """Rows [at most `SAMPLE_ROWS`, columns], if wanted: every `stride`-th."""

    stride: int = 1

    @classmethod
    def empty(cls, histograms: Histograms, *, sampled: int = 0) -> WindowSketch:
        """A window without rows; one that keeps rows of `sampled` columns, if not 0."""
        sample = np.zeros((0, sampled)) if sampled else None
        return cls(histograms, histograms.empty(), sample=sample)

    def after(self, rows: Floats, at: Floats) -> WindowSketch:
        """With further rows [n, columns], of which the first are counted, and their times [n]."""
        if not len(rows):
            return self
        return self.grown(rows, summaries(self.histograms, rows, at, [len(rows)])[0])

    def grown(self, rows: Floats, summary: Summary) -> WindowSketch:
        """As `after`, of rows of which `summaries` has told what they are."""
        sample, stride = self.sample, self.stride
        if sample is not None:
            # The next row of the sample is the first whose number in the window is a multiple.
            fresh = rows[-self.rows % stride :: stride]
            sample, stride = thinned(np.vstack([sample, fresh]), stride=stride)
        return WindowSketch(
            self.histograms,
            self.counts + summary.counts,
            rows=self.rows + len(rows),
            first=min(self.first, summary.first),
            last=max(self.last, summary.last),
            sample=sample,
            stride=stride,
        )

    def __add__(self, other: WindowSketch) -> WindowSketch:
        sample, stride = self.sample, max(self.stride, other.stride)
        if sample is not None and other.sample is not None:
            even = [part.sample[:: stride // part.stride] for part in (self, other)]  # type: ignore[index]
            sample, stride = thinned(np.vstack(even), stride=stride)
        return WindowSketch(
            self.histograms,
            self.counts + other.counts,
            rows=self.rows + other.rows,
            first=min(self.first, other.first),
            last=max(self.last, other.last),
            sample=sample,
            stride=stride,
        )

    @property
    def present(self) -> Counts:
        """Values [features] that are not missing."""
        return np.asarray(self.counts.sum(axis=-1))

    def state(self) -> dict[str, Any]:
        """Everything that `restored` needs, for JSON."""
        kept: dict[str, Any] = {
            "counts": self.counts.tolist(),
            "rows": self.rows,
            "span": [self.first, self.last],
        }
        if self.sample is not None:
            kept["sample"] = base64.b64encode(self.sample.tobytes()).decode()
            kept["stride"] = self.stride
        return kept

    def restored(self, state: Mapping[str, Any]) -> WindowSketch:
        """The sketch, of our histograms, that gave `state`."""
        first, last = state["span"]
        sample = self.sample
        if sample is not None:
            values = np.frombuffer(base64.b64decode(state["sample"]), dtype=np.float64)
            sample = values.reshape(-1, sample.shape[1])
        return WindowSketch(
            self.histograms,
            np.array(state["counts"], dtype=np.int64),
            rows=int(state["rows"]),
            first=float(first),
            last=float(last),
            sample=sample,
            stride=int(state.get("stride", 1)),
        )
