"""Population stability index and location shift, both from counts on the reference's edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["location_scores", "location_shift", "null_location", "null_psi", "psi"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Added to each bin, so that an empty one weighs what half a row would.
_PSEUDO = 0.5


def psi(counts: Counts, reference: Counts, *, valid: Mask) -> Floats:
    """Population stability index of each feature; all arguments are [..., features, bins].

    >>> same, moved = np.array([[50, 50]]), np.array([[90, 10]])
    >>> psi(moved, same, valid=np.array([[True, True]])).round(2).item()
    0.85
    """
    pseudo = np.where(valid, _PSEUDO, 0.0)
    p, q = counts + pseudo, reference + pseudo
    p = np.where(valid, p / p.sum(axis=-1, keepdims=True), 1.0)
    q = np.where(valid, q / q.sum(axis=-1, keepdims=True), 1.0)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1), dtype=np.float64)


def location_scores(reference: Counts) -> Floats:
    """The normal score of each bin: where its middle rank lies in a standard normal distribution.

    The scores make location shifts of any distribution comparable, in standard deviations of the
    reference, and no single row can weigh much.
    """
    total = np.maximum(reference.sum(axis=-1, keepdims=True), 1)
    upper = np.cumsum(reference, axis=-1) / total
    middle = upper - reference / total / 2
    # A bin that the reference leaves empty lies at the edge of its neighbours, but not at infinity.
    half = _PSEUDO / total
    return np.asarray(stats.norm.ppf(np.clip(middle, half, 1 - half)), dtype=np.float64)


def location_shift(counts: Counts, scores: Floats) -> Floats:
    """Mean normal score of each feature's rows, in standard deviations; 0 without rows."""
    total = np.maximum(counts.sum(axis=-1), 1)
    return np.asarray((counts * scores).sum(axis=-1) / total, dtype=np.float64)


def null_psi(reference: Counts, *, window: int) -> tuple[Floats, Floats]:
    """Mean and spread of the cube root of PSI on independent rows.

    PSI is then nearly `(1/n + 1/m)` times a chi-squared with B-1 degrees of freedom (hence the bias
    `(B-1)(1/n + 1/m)` of PSI), whose cube root is nearly normal (Wilson and Hilferty).
    """
    degrees = np.maximum((reference > 0).sum(axis=-1) - 1, 1)
    scale = np.cbrt((1 / window + 1 / np.maximum(reference.sum(axis=-1), 1)) * degrees)
    return scale * (1 - 2 / (9 * degrees)), scale * np.sqrt(2 / (9 * degrees))


def null_location(reference: Counts, *, window: int) -> tuple[Floats, Floats]:
    """Mean and spread of the location shift on independent rows."""
    spread = np.sqrt(1 / window + 1 / np.maximum(reference.sum(axis=-1), 1))
    return np.zeros_like(spread), spread
