"""Rows of any columns as points in which distances and correlations mean something.

Every value becomes the normal score of its rank in the reference, so that no unit, skew or heavy
tail weighs more than another, and a category the normal score of its share. What is missing is
drawn from what the reference says of it, given the row's other values: were it filled with a
constant, a sensor that fails would look like a change of all its relations.

Source: Hoff, "Extending the rank likelihood for semiparametric copula estimation", 2007 (the
Gaussian copula, and Gibbs sampling of missing values in it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from coalmine.modeldir import Column
from coalmine_monitors.multivariate._curve import Curve

__all__ = ["Encoder", "spaced"]

#: Ranks that are told apart of a column with many distinct values.
_KNOTS = 256
#: With so few distinct values a column is discrete: what is drawn for it is one of them.
_DISCRETE = 64
#: Ranks further out are alike, so that no single row can weigh much.
_FURTHEST = 3.0
#: Rows of a reference that are enough to know it by: ten times those of a window.
FIT_ROWS = 5_000
_SWEEPS = 3
#: Added to the correlation's diagonal: of columns that determine each other, each keeps a doubt.
_RIDGE = 0.01

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Scale:
    """How one column is encoded. Arrays are [knots]."""

    index: int
    unknown: float
    """Values from here on are no category that is known; infinite for a number."""

    knots: Floats
    scores: Floats
    upper: Floats
    """Share of the reference up to and with each knot."""

    curve: Curve

    @classmethod
    def fit(cls, values: Floats, *, index: int, categories: int) -> _Scale | None:
        """None of a column that says nothing: constant, or missing throughout."""
        unknown = float(categories) if categories else np.inf
        present = np.sort(values[np.isfinite(values) & (values < unknown)])
        knots = np.unique(present)
        if knots.size > _DISCRETE:
            knots = np.unique(np.quantile(present, np.arange(_KNOTS + 1) / _KNOTS))
        if knots.size < 2:
            return None
        below, upper = (
            np.searchsorted(present, knots, side=side) / present.size for side in ("left", "right")
        )
        scores = np.clip(ndtri((below + upper) / 2), -_FURTHEST, _FURTHEST)
        raw = np.interp(present, knots, scores)
        scores = (scores - raw.mean()) / max(float(raw.std()), 1e-9)
        curve = Curve.through(knots, scores)
        return cls(index, unknown, knots, scores, np.asarray(upper), curve)

    def encode(self, rows: Floats) -> Floats:
        """The scores [n] of this column in rows [n, columns], NaN where missing or unknown."""
        values = rows[:, self.index]
        scores = self.curve.at(values)
        if np.isfinite(self.unknown):
            scores[values >= self.unknown] = np.nan
        return scores

    def settle(self, drawn: Floats) -> Floats:
        """Scores drawn from a normal distribution as scores that this column can have."""
        if self.knots.size > _DISCRETE:
            return drawn
        place = np.searchsorted(self.upper, ndtr(drawn))
        return np.asarray(self.scores[np.minimum(place, self.scores.size - 1)])


@dataclass(frozen=True)
class Encoder:
    """Fitted on the reference; columns that say nothing there are left out."""

    scales: tuple[_Scale, ...]
    precision: Floats
    """Inverse of the correlation [used, used]."""

    @classmethod
    def fit(cls, rows: Floats, columns: tuple[Column, ...]) -> Encoder:
        """Of rows [n, columns], as `matrix` makes them."""
        rows = spaced(rows, FIT_ROWS)
        scales = tuple(
            scale
            for index, column in enumerate(columns)
            if (
                scale := _Scale.fit(
                    rows[:, index], index=index, categories=len(column.categories or ())
                )
            )
        )
        if not scales:
            return cls((), np.zeros((0, 0)))
        scores = np.stack([scale.encode(rows) for scale in scales]).T
        return cls(scales, np.asarray(np.linalg.inv(_correlation(scores)), dtype=np.float64))

    @property
    def used(self) -> NDArray[np.intp]:
        """Which of the columns [used] are encoded."""
        return np.array([scale.index for scale in self.scales], dtype=np.intp)

    def encode(self, rows: Floats) -> Floats:
        """Points [n, used] of rows [n, columns]; what is missing is drawn, the same every time."""
        return self.filled(self.scores(rows), rows)

    def scores(self, rows: Floats) -> Floats:
        """As `encode`; NaN for what is missing [n, used]."""
        return np.stack([scale.encode(rows) for scale in self.scales]).T

    def filled(self, scores: Floats, rows: Floats) -> Floats:
        """The `scores` of rows with what is missing drawn."""
        missing = np.isnan(scores)
        if missing.any():
            scores = np.where(missing, 0.0, scores)
            self._draw(scores, missing, seeds=_digest(np.where(missing, 0.0, rows[:, self.used])))
        return scores

    def without(self, points: Floats, column: int) -> Floats:
        """`points` with one of the used columns as the reference has it, given the others."""
        missing = np.zeros(points.shape, dtype=np.bool_)
        missing[:, column] = True
        drawn = points.copy()
        drawn[:, column] = 0.0
        self._draw(drawn, missing, seeds=_digest(drawn))
        return drawn

    def _draw(
        self, scores: Floats, missing: NDArray[np.bool_], *, seeds: NDArray[np.uint64]
    ) -> None:
        holes = [(column, np.flatnonzero(missing[:, column])) for column in range(missing.shape[1])]
        holes = [(column, rows) for column, rows in holes if rows.size]
        # One column alone is drawn from its distribution at once.
        for sweep in range(_SWEEPS if len(holes) > 1 else 1):
            for column, rows in holes:
                own = self.precision[column, column]
                pull = scores[rows] @ self.precision[:, column] - scores[rows, column] * own
                noise = _normal(seeds[rows], stream=column * _SWEEPS + sweep)
                scores[rows, column] = noise / np.sqrt(own) - pull / own
        for column, rows in holes:
            scores[rows, column] = self.scales[column].settle(scores[rows, column])


def spaced(rows: Floats, most: int) -> Floats:
    """At most `most` of the rows, evenly spaced."""
    return rows[:: max(-(-len(rows) // most), 1)]


def _correlation(scores: Floats) -> Floats:
    """Of the columns [used, used], each pair from the rows that have both."""
    known = (~np.isnan(scores)).astype(np.float64)
    values = np.nan_to_num(scores)
    both = np.maximum(known.T @ known, 1.0)
    correlation = values.T @ values / both
    # Pairs that come from different rows may contradict each other.
    sizes, axes = np.linalg.eigh(correlation)
    correlation = (axes * np.maximum(sizes, 0.0)) @ axes.T
    spread = np.sqrt(np.maximum(np.diag(correlation), 1e-9))
    return np.asarray(correlation / np.outer(spread, spread) + _RIDGE * np.eye(len(spread)))


def _digest(rows: Floats) -> NDArray[np.uint64]:
    """A number for each row, of its content alone: what is drawn depends on no order of rows."""
    bits = np.ascontiguousarray(rows, dtype=np.float64).view(np.uint64)
    odd = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(_mix(bits * odd).sum(axis=1, dtype=np.uint64))


def _normal(seeds: NDArray[np.uint64], *, stream: int) -> Floats:
    """A standard normal number for each seed and stream."""
    mixed = _mix(seeds + np.uint64((stream + 1) * 0xD1342543DE82EF95 % 2**64))
    return np.asarray(ndtri(((mixed >> np.uint64(11)) + 0.5) * 2.0**-53), dtype=np.float64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
