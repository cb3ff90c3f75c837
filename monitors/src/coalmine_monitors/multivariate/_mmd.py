"""Maximum mean discrepancy, on random features of the Gaussian kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from coalmine_monitors.multivariate._encoder import spaced
from coalmine_monitors.multivariate._statistic import Statistic

__all__ = ["MeanDiscrepancy"]

#: Random directions; each gives a cosine and a sine.
DIRECTIONS = 64
#: Rows whose distances give the bandwidth.
_BANDWIDTH_ROWS = 500

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MeanDiscrepancy(Statistic):
    """The cube root of the squared distance between the mean features of a window and ours.

    On independent rows the square is a weighted sum of chi-squared variables, whose cube root is
    nearly normal. The bandwidth is the median distance of two rows.

    Sources: Rahimi and Recht, "Random features for large-scale kernel machines", 2007; Gretton,
    Borgwardt, Rasch, Schoelkopf and Smola, "A kernel two-sample test", 2012.
    """

    name = "mmd"
    two_sided = False

    directions: Floats
    """[used, directions]"""

    mean: Floats
    floor: tuple[float, float]
    scale: float
    """From squared distances to squared shifts of a mean, in standard deviations."""

    @classmethod
    def fit(cls, points: Floats, *, window: int) -> MeanDiscrepancy:
        """Of the reference's points [n, used], to judge windows of so many rows."""
        bandwidth = max(float(np.median(pdist(spaced(points, _BANDWIDTH_ROWS)))), 1e-3)
        rng = np.random.default_rng(20071203)
        directions = rng.standard_normal((points.shape[1], DIRECTIONS)) / bandwidth
        features = _features(points, directions)
        covariance = np.cov(features, rowvar=False)
        total, squares = float(np.trace(covariance)), float((covariance**2).sum())
        noise = 1 / window + 1 / len(points)
        expected, variance = total * noise, 2 * squares * noise**2
        mean = np.cbrt(expected) * (1 - variance / (9 * expected**2))
        spread = np.cbrt(expected) * np.sqrt(variance) / (3 * expected)
        return cls(
            directions,
            _means(points, directions),
            (float(mean), float(spread)),
            scale=total / squares,
        )

    def without(self, rest: Floats) -> MeanDiscrepancy:
        return replace(self, mean=_means(rest, self.directions))

    def score(self, points: Floats) -> float:
        """Of a window's points [n, used]."""
        away = _means(points, self.directions) - self.mean
        return float(np.cbrt((away**2).sum()))

    def effect(self, scores: Floats) -> Floats:
        """As the index between two normal distributions whose means differ so much."""
        return self.scale * scores**3


def _features(points: Floats, directions: Floats) -> NDArray[np.float32]:
    """[n, 2 * directions]"""
    # Seven digits are plenty for a cosine that goes into a mean, and come ten times as fast.
    angles = (points @ directions).astype(np.float32)
    both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(both / np.float32(np.sqrt(directions.shape[1])))


def _means(points: Floats, directions: Floats) -> Floats:
    """The mean features [2 * directions]; of two parts of a window those add up to the whole's."""
    angles = (points @ directions).astype(np.float32)
    ones = np.ones(len(points), dtype=np.float32)
    total = np.concatenate([ones @ np.cos(angles), ones @ np.sin(angles)])
    return np.asarray(total / (len(points) * np.sqrt(directions.shape[1])), dtype=np.float64)
