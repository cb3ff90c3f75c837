"""Reconstruction error of principal components: do the columns still go together as they did?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.multivariate._statistic import Statistic

__all__ = ["Reconstruction"]

#: Share of the variance that the components explain which are kept. The error is what is left.
EXPLAINED = 0.8
#: No relation is so exact that an error of a hundredth of a column's variance counts.
_LEAST_VARIANCE = 0.01

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reconstruction(Statistic):
    """The logarithm of the mean squared error of rebuilding rows from the components kept.

    Errors count in units of what the reference has of them, direction by direction: a relation that
    is tight there is broken by a small error. 0 is as on the reference, and both signs matter:
    relations that break raise it, and values that freeze lower it.

    Source: Jackson and Mudholkar, "Control procedures for residuals associated with principal
    component analysis", 1979.
    """

    name = "pca"
    two_sided = True

    residual: Floats
    """Columns of the points to standardised residuals [used, left]."""

    center: Floats
    floor: tuple[float, float]
    window: int

    @classmethod
    def fit(cls, points: Floats, *, window: int) -> Reconstruction:
        """Of the reference's points [n, used], to judge windows of so many rows."""
        center = points.mean(axis=0)
        sizes, axes = np.linalg.eigh(np.cov(points - center, rowvar=False))
        explained = np.cumsum(sizes[::-1]) / sizes.sum()
        kept = min(int(np.searchsorted(explained, EXPLAINED)) + 1, sizes.size - 1)
        left = sizes.size - kept
        residual = axes[:, :left] / np.sqrt(np.maximum(sizes[:left], _LEAST_VARIANCE))
        errors = (((points - center) @ residual) ** 2).mean(axis=1)
        # Of directions with less than the least variance the error is not 1 in the mean.
        residual /= np.sqrt(errors.mean())
        spread = errors.std() / errors.mean() * np.sqrt(1 / window + 1 / len(points))
        return cls(residual, center, (0.0, float(spread)), window)

    def without(self, rest: Floats) -> Reconstruction:
        # Directions of little variance fit the rows they come from better than any others.
        return self.fit(rest, window=self.window)

    def score(self, points: Floats) -> float:
        """Of a window's points [n, used]."""
        errors = (((points - self.center) @ self.residual) ** 2).mean()
        return float(np.log(max(errors, 1e-12)))

    def effect(self, scores: Floats) -> Floats:
        """As the index between two normal distributions whose variances differ so much."""
        ratio = np.exp(np.clip(scores, -10, 10))
        return np.asarray(self.residual.shape[1] * (ratio + 1 / ratio - 2) / 2)
