"""A classifier that tells a window's rows from the reference's, judged on rows it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from coalmine_monitors.multivariate._encoder import spaced
from coalmine_monitors.multivariate._statistic import Statistic

__all__ = ["DomainClassifier"]

#: Contiguous blocks of the window; each is scored by a classifier of the others.
FOLDS = 5
#: Pairs of columns whose product the classifier sees; those that go together most, and squares.
PAIRS = 300
#: Rows of the reference that a window's are compared with.
_COMPARED = 1_000
#: Differences of less than this many standard errors are noise to the classifier.
_SHRINKAGE = 2.0
_RIDGE = 0.01
#: Scores that differ by less, in the range of all, are equal.
_EQUAL = np.float32(1e-5)

Floats = NDArray[np.float64]
_Float = TypeVar("_Float", np.float32, np.float64)


@dataclass(frozen=True)
class DomainClassifier(Statistic):
    """The separation d' that belongs to the area under the ROC curve of the out-of-fold scores.

    `d' = sqrt(2) * probit(area)`: 0 is chance, and 1 two normal distributions a standard deviation
    apart. The classifier is Fisher's discriminant on the columns and their products, with shrunken
    centroids: a quadratic boundary, found in a millisecond. Folds are contiguous blocks, since a
    row's neighbours are too much like it to be an honest test.

    Sources: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017; Tibshirani,
    Hastie, Narasimhan and Chu, "Diagnosis of multiple cancer types by shrunken centroids of gene
    expression", 2002.
    """

    name = "domain_classifier"
    two_sided = False

    pairs: NDArray[np.intp]
    """[2, pairs]"""

    mean: Floats
    spread: Floats
    precision: Floats
    """Inverse of the covariance of the reference's features."""

    compared: NDArray[np.float32]
    """Features [features, rows] of some of the reference's rows."""

    floor: tuple[float, float]

    @classmethod
    def fit(cls, points: Floats, *, window: int) -> DomainClassifier:
        """Of the reference's points [n, used], to judge windows of so many rows."""
        pairs = _strongest(np.asarray(np.corrcoef(points, rowvar=False)))
        features = _features(points.T, pairs)
        covariance = np.cov(features)
        spread = np.sqrt(np.diag(covariance))
        ridge = _RIDGE * np.diag(spread**2 + 1e-9)
        compared = _compared(features)
        noise = np.sqrt((1 / window + 1 / len(compared.T)) / 12) * np.sqrt(4 * np.pi)
        return cls(
            pairs,
            features.mean(axis=1),
            spread,
            np.asarray(np.linalg.inv(covariance + ridge), dtype=np.float64),
            compared,
            (0.0, float(noise)),
        )

    def without(self, rest: Floats) -> DomainClassifier:
        features = _features(rest.T, self.pairs)
        return replace(self, mean=features.mean(axis=1), compared=_compared(features))

    def score(self, points: Floats) -> float:
        """Of a window's points [n, used]."""
        # Seven digits tell rows apart well enough, and come twice as fast.
        features = _features(np.ascontiguousarray(points.T, dtype=np.float32), self.pairs)
        cuts, blocks = _blocks(len(points))
        sums, sizes = (features @ blocks).T.astype(np.float64), np.diff(cuts)
        others = len(points) - sizes
        away = (sums.sum(axis=0) - sums) / others[:, None] - self.mean
        noise = _SHRINKAGE * self.spread / np.sqrt(others)[:, None]
        shrunk = np.sign(away) * np.maximum(np.abs(away) - noise, 0.0)
        weights = (shrunk @ self.precision).astype(np.float32)
        usual = np.sort(weights @ self.compared, axis=1)
        areas = [
            _area(weight @ features[:, start:end], known)
            for weight, known, start, end in zip(weights, usual, cuts, cuts[1:], strict=False)
        ]
        area = np.average(areas, weights=sizes)
        return float(np.sqrt(2) * ndtri(np.clip(area, 1e-4, 1 - 1e-4)))

    def effect(self, scores: Floats) -> Floats:
        """As the index between two normal distributions that can be told apart so well."""
        return np.asarray(np.maximum(scores, 0.0) ** 2)


def _strongest(correlation: Floats) -> NDArray[np.intp]:
    """The pairs [2, pairs] of columns that go together most, each with itself among them."""
    first, second = np.triu_indices(len(correlation))
    order = np.argsort(-np.abs(correlation[first, second]), kind="stable")[:PAIRS]
    return np.array([first[order], second[order]])


def _features(points: NDArray[_Float], pairs: NDArray[np.intp]) -> NDArray[_Float]:
    """Of points [used, n] themselves, then their products [used + pairs, n]."""
    used = len(points)
    features = np.empty((used + pairs.shape[1], points.shape[1]), dtype=points.dtype)
    features[:used] = points
    np.multiply(points[pairs[0]], points[pairs[1]], out=features[used:])
    return features


def _compared(features: Floats) -> NDArray[np.float32]:
    """Some of the columns."""
    return np.ascontiguousarray(spaced(features.T, _COMPARED).T, dtype=np.float32)


@lru_cache(maxsize=64)
def _blocks(rows: int) -> tuple[list[int], NDArray[np.float32]]:
    """Where blocks begin and end [FOLDS + 1], and 1 for each row in its block [rows, FOLDS]."""
    cuts = [0, *np.cumsum([len(part) for part in np.array_split(np.arange(rows), FOLDS)]).tolist()]
    block = np.repeat(np.arange(FOLDS), np.diff(cuts))
    return cuts, np.asarray(block[:, None] == np.arange(FOLDS), dtype=np.float32)


def _area(scores: NDArray[np.float32], usual: NDArray[np.float32]) -> float:
    """Area under the ROC curve, of scores against sorted usual ones; ties count half."""
    # Equal rows are equal whatever the last digit of their sums.
    same = _EQUAL * max(usual[-1] - usual[0], np.float32(0))
    below = usual.searchsorted(scores - same) + usual.searchsorted(scores + same, side="right")
    return float(below.mean() / (2 * usual.size))
