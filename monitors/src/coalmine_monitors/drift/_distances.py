"""Distances between a window and the reference, all from counts on the reference's edges.

Each function takes arrays [..., features, bins] and gives [..., features].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PSEUDO",
    "Shares",
    "chi_squared",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "psi",
    "wasserstein",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Added to each bin, so that an empty one weighs what half a row would.
PSEUDO = 0.5


def psi(counts: Counts, reference: Counts, *, valid: Mask) -> Floats:
    """Population stability index: the symmetric Kullback-Leibler divergence of the bins' shares.

    >>> same, moved = np.array([[50, 50]]), np.array([[90, 10]])
    >>> psi(moved, same, valid=np.array([[True, True]])).round(2).item()
    0.85
    """
    return Shares.of(reference, valid).psi(counts)


@dataclass(frozen=True)
class Shares:
    """A reference's shares of its bins, their logarithms, and what is added to a window's."""

    shares: Floats
    logs: Floats
    pseudo: Floats
    unused: Floats
    """1 in the bins that a feature does not have, which so contribute nothing."""

    @classmethod
    def of(cls, reference: Counts, valid: Mask) -> Shares:
        """Of counts [..., features, bins]."""
        shares = _shares(reference, valid)
        return cls(shares, np.log(shares), np.where(valid, PSEUDO, 0.0), np.where(valid, 0.0, 1.0))

    def psi(self, counts: Counts) -> Floats:
        """See `psi`."""
        weights = counts + self.pseudo
        weights /= weights.sum(axis=-1, keepdims=True)
        weights += self.unused
        apart = weights - self.shares
        apart *= np.log(weights) - self.logs
        return np.asarray(apart.sum(axis=-1))


def jensen_shannon(counts: Counts, reference: Counts, *, valid: Mask) -> Floats:
    """Jensen-Shannon divergence in bits: 0 where the shares are equal, 1 where no bin is shared.

    >>> one, other = np.array([[10**9, 0]]), np.array([[0, 10**9]])
    >>> jensen_shannon(one, other, valid=np.array([[True, True]])).round(3).item()
    1.0
    """
    p, q = _shares(counts, valid), _shares(reference, valid)
    middle = (p + q) / 2
    both = p * np.log2(p / middle) + q * np.log2(q / middle)
    return np.asarray(both.sum(axis=-1) / 2, dtype=np.float64)


def chi_squared(counts: Counts, reference: Counts, *, valid: Mask) -> Floats:
    """Pearson's chi-squared of homogeneity, per row: `sum (p - q)^2 / pooled share`.

    Times `1 / (1/n + 1/m)` it is the test's statistic. Divided so, it does not grow with the rows.
    """
    n, m = (_total(part) for part in (counts, reference))
    p, q = counts / n, reference / m
    pool = (counts + reference) / (n + m)
    terms = np.where(valid & (pool > 0), (p - q) ** 2 / np.maximum(pool, 1e-300), 0.0)
    return np.asarray(terms.sum(axis=-1), dtype=np.float64)


def kolmogorov_smirnov(counts: Counts, reference: Counts) -> Floats:
    """Largest difference of the shares below an edge; what happens within a bin is not seen.

    >>> kolmogorov_smirnov(np.array([[10, 0]]), np.array([[50, 50]])).item()
    0.5
    """
    return np.asarray(np.abs(_below(counts) - _below(reference)).max(axis=-1))


def wasserstein(counts: Counts, reference: Counts, *, gaps: Floats) -> Floats:
    """Mean distance that a row has to be moved; `gaps` [features, bins - 1] lie between bins."""
    apart = np.abs(_below(counts) - _below(reference))[..., :-1]
    return np.asarray((apart * gaps).sum(axis=-1), dtype=np.float64)


def _shares(counts: Counts, valid: Mask) -> Floats:
    weights = np.where(valid, counts + PSEUDO, 0.0)
    return np.asarray(np.where(valid, weights / weights.sum(axis=-1, keepdims=True), 1.0))


def _total(counts: Counts) -> Counts:
    return np.asarray(np.maximum(counts.sum(axis=-1, keepdims=True), 1))


def _below(counts: Counts) -> Floats:
    return np.asarray(np.cumsum(counts, axis=-1) / _total(counts))
