"""The statistics by which a window is compared, and what they are while nothing happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from coalmine_monitors.drift import _distances as distances

__all__ = [
    "DISTANCES",
    "LOCATION",
    "STATISTICS",
    "Against",
    "location_scores",
    "location_shift",
    "null_location",
    "null_psi",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

LOCATION = "location"


@dataclass(frozen=True)
class Against:
    """What windows are compared with. Arrays are [features, bins], of fine bins or coarse ones."""

    fine: Counts
    coarse: Counts
    valid: Mask
    """Which coarse bins a feature has."""

    gaps: Floats
    """Distances [features, fine bins - 1] between the bins, in standard deviations."""

    @cached_property
    def scores(self) -> Floats:
        """Normal scores of the coarse bins."""
        return location_scores(self.coarse)

    @cached_property
    def shares(self) -> distances.Shares:
        """What PSI needs of the coarse bins: every window asks for it."""
        return distances.Shares.of(self.coarse, self.valid)


@dataclass(frozen=True)
class Statistic:
    """A distance: for which type of column, how to compute it, what makes it nearly normal."""

    types: tuple[Literal["numeric", "categorical"], ...]
    compute: Callable[[Counts, Counts, Against], Floats]
    """Of fine counts, coarse counts and what to compare with."""

    transform: Callable[[Floats], Floats]
    null: Callable[[Against, int], tuple[Floats, Floats]]
    """Mean and spread [features], transformed, of a window of so many independent rows."""


def location_scores(reference: Counts) -> Floats:
    """The normal score of each bin: where its middle rank lies in a standard normal distribution.

    The scores make location shifts of any distribution comparable, in standard deviations of the
    reference, and no single row can weigh much.
    """
    total = np.maximum(reference.sum(axis=-1, keepdims=True), 1)
    upper = np.cumsum(reference, axis=-1) / total
    middle = upper - reference / total / 2
    # A bin that the reference leaves empty lies at the edge of its neighbours, but not at infinity.
    half = distances.PSEUDO / total
    return np.asarray(stats.norm.ppf(np.clip(middle, half, 1 - half)), dtype=np.float64)


def location_shift(counts: Counts, scores: Floats) -> Floats:
    """Mean normal score of each feature's rows, in standard deviations; 0 without rows."""
    total = np.maximum(counts.sum(axis=-1), 1)
    return np.asarray((counts * scores).sum(axis=-1) / total)


def null_psi(reference: Counts, *, window: int) -> tuple[Floats, Floats]:
    """Mean and spread of the cube root of PSI on independent rows.

    PSI is then nearly `(1/n + 1/m)` times a chi-squared with B-1 degrees of freedom (hence the bias
    `(B-1)(1/n + 1/m)` of PSI), whose cube root is nearly normal (Wilson and Hilferty).
    """
    degrees = np.maximum((reference > 0).sum(axis=-1) - 1, 1)
    scale = np.cbrt(_error(reference, window) ** 2 * degrees)
    return scale * (1 - 2 / (9 * degrees)), scale * np.sqrt(2 / (9 * degrees))


def null_location(reference: Counts, *, window: int) -> tuple[Floats, Floats]:
    """Mean and spread of the location shift on independent rows."""
    spread = _error(reference, window)
    return np.zeros_like(spread), spread


def _error(reference: Counts, window: int) -> Floats:
    return np.asarray(np.sqrt(1 / window + 1 / np.maximum(reference.sum(axis=-1), 1)))


def _null_psi(against: Against, window: int) -> tuple[Floats, Floats]:
    return null_psi(against.coarse, window=window)


def _null_js(against: Against, window: int) -> tuple[Floats, Floats]:
    # Close to equality it is an eighth of PSI, in bits.
    mean, spread = _null_psi(against, window)
    factor = np.cbrt(1 / (8 * np.log(2)))
    return mean * factor, spread * factor


def _null_ks(against: Against, window: int) -> tuple[Floats, Floats]:
    # Mean and spread of Kolmogorov's distribution; on bins it is a little less.
    error = _error(against.fine, window)
    return 0.8687 * error, 0.2603 * error


def _null_wasserstein(against: Against, window: int) -> tuple[Floats, Floats]:
    below = np.cumsum(against.fine, axis=-1) / np.maximum(
        against.fine.sum(axis=-1, keepdims=True), 1
    )
    size = (np.sqrt(below * (1 - below))[..., :-1] * against.gaps).sum(axis=-1)
    error = _error(against.fine, window) * size
    return np.sqrt(2 / np.pi) * error, 0.3 * error


def _same(values: Floats) -> Floats:
    return values


_BOTH: tuple[Literal["numeric", "categorical"], ...] = ("numeric", "categorical")

#: Distances of any two distributions, which only grow with drift.
DISTANCES: dict[str, Statistic] = {
    "psi": Statistic(
        _BOTH,
        lambda fine, coarse, to: to.shares.psi(coarse),
        np.cbrt,
        _null_psi,
    ),
    "js": Statistic(
        _BOTH,
        lambda fine, coarse, to: distances.jensen_shannon(coarse, to.coarse, valid=to.valid),
        np.cbrt,
        _null_js,
    ),
    "ks": Statistic(
        ("numeric",),
        lambda fine, coarse, to: distances.kolmogorov_smirnov(fine, to.fine),
        _same,
        _null_ks,
    ),
    "wasserstein": Statistic(
        ("numeric",),
        lambda fine, coarse, to: distances.wasserstein(fine, to.fine, gaps=to.gaps),
        _same,
        _null_wasserstein,
    ),
    "chi_squared": Statistic(
        ("categorical",),
        lambda fine, coarse, to: distances.chi_squared(coarse, to.coarse, valid=to.valid),
        np.cbrt,
        _null_psi,
    ),
}

#: What evidence can be gathered of: the distances, and the location of numeric columns.
STATISTICS = (*DISTANCES, LOCATION)
