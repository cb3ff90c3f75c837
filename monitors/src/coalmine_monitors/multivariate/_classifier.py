"""A classifier that tells a window's rows from the reference's, judged on rows it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

Floats = NDArray[np.float64]


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

    compared: Floats
    """Features [rows, features] of some of the reference's rows."""

    floor: tuple[float, float]

    @classmethod
    def fit(cls, points: Floats, *, window: int) -> DomainClassifier:
        """Of the reference's points [n, used], to judge windows of so many rows."""
        pairs = _strongest(np.asarray(np.corrcoef(points, rowvar=False)))
        features = _features(points, pairs)
        covariance = np.cov(features, rowvar=False)
        spread = np.sqrt(np.diag(covariance))
        ridge = _RIDGE * np.diag(spread**2 + 1e-9)
        compared = spaced(features, _COMPARED)
        noise = np.sqrt((1 / window + 1 / len(compared)) / 12) * np.sqrt(4 * np.pi)
        return cls(
            pairs,
            features.mean(axis=0),
            spread,
            np.asarray(np.linalg.inv(covariance + ridge), dtype=np.float64),
            compared,
            (0.0, float(noise)),
        )

    def without(self, rest: Floats) -> DomainClassifier:
        features = _features(rest, self.pairs)
        return replace(self, mean=features.mean(axis=0), compared=spaced(features, _COMPARED))

    def score(self, points: Floats) -> float:
        """Of a window's points [n, used]."""
        features = _features(points, self.pairs)
        blocks = np.array_split(features, FOLDS)
        sums = np.array([block.sum(axis=0) for block in blocks])
        sizes = np.array([len(block) for block in blocks])
        others = len(points) - sizes
        away = (sums.sum(axis=0) - sums) / others[:, None] - self.mean
        noise = _SHRINKAGE * self.spread / np.sqrt(others)[:, None]
        shrunk = np.sign(away) * np.maximum(np.abs(away) - noise, 0.0)
        weights = shrunk @ self.precision
        usual = np.sort(self.compared @ weights.T, axis=0)
        areas = [
            _area(block @ weight, usual[:, fold])
            for fold, (block, weight) in enumerate(zip(blocks, weights, strict=True))
        ]
        area = np.average(areas, weights=sizes)
        return float(np.sqrt(2) * ndtri(np.clip(area, 1e-4, 1 - 1e-4)))

    def effect(self, score: float) -> float:
        """As the index between two normal distributions that can be told apart so well."""
        return float(max(score, 0.0) ** 2)


def _strongest(correlation: Floats) -> NDArray[np.intp]:
    """The pairs [2, pairs] of columns that go together most, each with itself among them."""
    first, second = np.triu_indices(len(correlation))
    order = np.argsort(-np.abs(correlation[first, second]), kind="stable")[:PAIRS]
    return np.array([first[order], second[order]])


def _features(points: Floats, pairs: NDArray[np.intp]) -> Floats:
    return np.concatenate([points, points[:, pairs[0]] * points[:, pairs[1]]], axis=1)


def _area(scores: Floats, usual: Floats) -> float:
    """Area under the ROC curve, of scores against sorted usual ones; ties count half."""
    below = np.searchsorted(usual, scores, side="left") + np.searchsorted(
        usual, scores, side="right"
    )
    return float(below.mean() / (2 * usual.size))
