"""Shapes of latency, as shares of requests by the performance monitor's bins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EDGES_US", "SHAPES", "Shape", "p99_us"]

#: 20 per decade, 100 us to 10 s: the edges of the performance monitor, which lives elsewhere.
EDGES_US: NDArray[np.float64] = np.round(100 * 10 ** (np.arange(101) / 20), 3)


@dataclass(frozen=True, slots=True)
class Shape:
    """A latency distribution: `cdf(us, factor)` with the candidate slower by the factor."""

    name: str
    cdf: Callable[[float, float], float]

    def shares(self, factor: float = 1.0) -> NDArray[np.float64]:
        """Shares of requests in the bins, [edges + 1]."""
        below = np.array([0.0, *(self.cdf(edge, factor) for edge in EDGES_US), 1.0])
        return np.diff(below)


def _lognormal(median: float, sigma: float) -> Callable[[float, float], float]:
    return lambda us, factor: (
        0.5 * (1.0 + math.erf(math.log(us / (median * factor)) / sigma / math.sqrt(2.0)))
    )


def _gamma(shape: int, scale: float) -> Callable[[float, float], float]:
    def cdf(us: float, factor: float) -> float:
        x = us / (scale * factor)
        return 1.0 - math.exp(-x) * sum(x**i / math.factorial(i) for i in range(shape))

    return cdf


def _bimodal(us: float, factor: float, *, tail_only: bool) -> float:
    """3 % of the requests take ten times as long (a cache missed)."""
    fast, slow = _lognormal(800.0, 0.3), _lognormal(8000.0, 0.3)
    return 0.97 * fast(us, 1.0 if tail_only else factor) + 0.03 * slow(us, factor)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("lognormal 0.5", _lognormal(800.0, 0.5)),
        Shape("lognormal 1", _lognormal(800.0, 1.0)),
        Shape("gamma 2", _gamma(2, 400.0)),
        Shape("bimodal", lambda us, factor: _bimodal(us, factor, tail_only=False)),
        Shape("slow mode only", lambda us, factor: _bimodal(us, factor, tail_only=True)),
    )
}


def p99_us(counts: NDArray[np.int64]) -> float:
    """The p99 that a histogram tells: interpolated within its bin, as PromQL does. NaN of none."""
    total = counts.sum()
    if not total:
        return math.nan
    cumulative = np.cumsum(counts)
    rank = 0.99 * total
    bin_ = int(np.searchsorted(cumulative, rank))
    if bin_ >= EDGES_US.size:
        return float(EDGES_US[-1])
    low = EDGES_US[bin_ - 1] if bin_ else 0.0
    before = cumulative[bin_] - counts[bin_]
    return float(low + (EDGES_US[bin_] - low) * (rank - before) / max(counts[bin_], 1))
