"""From what a model says of its answer to how often it is right.

Of several classes the chance to be right depends on what is said of the others too: the chances are
tempered first, with the one temperature that fits the true classes best. Then two curves compete on
parts of the reference that they have not seen: a logistic one, two numbers, which hardly errs where
the reference has few rows, and an isotonic one, which follows any rising shape.

Sources: Guo et al., "On calibration of modern neural networks", 2017; Zadrozny and Elkan,
"Transforming classifier scores into accurate multiclass probability estimates", 2002.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

__all__ = ["best_curve", "temper", "temperature_of"]

#: Contiguous parts of the reference; each is judged by a curve that is fitted on the others.
_FOLDS = 5
#: Rows that the temperature is fitted on: enough for two digits.
_ROWS = 20_000
_LARGEST = 20.0
#: Points that a logistic curve is kept at.
_POINTS = 400
#: Nearest that a chance is to 0 or 1, where its logarithm is taken.
_SURE = 1e-7

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]
"""Chances `said`, rising, and how often the answer is right there; linear in between."""

_Fit = Callable[[Floats, Floats], Curve]


def temperature_of(chances: Floats, truth: Floats) -> float:
    """Which temperature makes chances [rows, classes] fit true classes [rows] best.

    1 of two classes, since the curve makes up for it, and of what are no chances.
    """
    known = np.isfinite(chances).all(axis=1) & np.isfinite(truth)
    if chances.shape[1] <= 2 or not _are_chances(chances[known]):
        return 1.0
    some = np.flatnonzero(known)[:: max(1, int(known.sum()) // _ROWS)]
    logits, right = _logits(chances[some]), truth[some].astype(np.int64)

    def loss(power: float) -> float:
        scaled = logits / np.exp(power)
        of_truth = scaled[np.arange(len(right)), right]
        return float((special.logsumexp(scaled, axis=1) - of_truth).sum())

    limit = np.log(_LARGEST)
    found = optimize.minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(found.x))


def temper(chances: Floats, temperature: float) -> Floats:
    """Chances [rows, classes] at another temperature."""
    if temperature == 1.0:
        return chances
    return np.asarray(special.softmax(_logits(chances) / temperature, axis=1))


def best_curve(said: Floats, correct: Floats) -> tuple[Curve, Floats]:
    """The curve that fits rows [rows] of a reference in time order, and what it expects of them.

    What is expected of a row is by a curve that has not seen its part of the reference.
    """
    fits: tuple[_Fit, ...] = (_isotonic, _logistic) if _are_chances(said) else (_isotonic,)
    held_out = {fit: _held_out(fit, said, correct) for fit in fits}
    floor = 0.5 / len(said)

    def loss(fit: _Fit) -> float:
        expected = np.clip(held_out[fit], floor, 1 - floor)
        right, wrong = special.xlogy(correct, expected), special.xlogy(1 - correct, 1 - expected)
        return -float((right + wrong).sum())

    best = min(held_out, key=loss)
    return best(said, correct), held_out[best]


def _held_out(fit: _Fit, said: Floats, correct: Floats) -> Floats:
    expected = np.empty_like(said)
    for part in np.array_split(np.arange(len(said)), _FOLDS):
        others = np.ones(len(said), dtype=np.bool_)
        others[part] = False
        expected[part] = np.interp(said[part], *fit(said[others], correct[others]))
    return expected


def _isotonic(said: Floats, correct: Floats) -> Curve:
    """The chance to be right as any rising function of what is said."""
    order = np.argsort(said, kind="stable")
    fitted = optimize.isotonic_regression(correct[order]).x
    points, first = np.unique(said[order], return_index=True)
    # Rows of which the same is said have the same chance: the mean of theirs.
    sums = np.add.reduceat(fitted, first)
    return points, sums / np.diff(np.append(first, len(fitted)))


def _logistic(said: Floats, correct: Floats) -> Curve:
    """The chance to be right as a logistic function of the logit of what is said."""
    logit = special.logit(np.clip(said, _SURE, 1 - _SURE))
    rows = np.column_stack([np.ones_like(logit), logit])
    # A little is held on to "it is as said", so that answers which are all right have a curve too.
    start, hold = np.array([0.0, 1.0]), 0.5
    weights = start
    for _ in range(30):
        chance = special.expit(rows @ weights)
        slope = rows.T @ (correct - chance) - hold * (weights - start)
        bend = (rows * (chance * (1 - chance))[:, None]).T @ rows + hold * np.eye(2)
        step = np.linalg.solve(bend, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-6:
            break
    grid = np.linspace(special.logit(_SURE), -special.logit(_SURE), _POINTS)
    right = special.expit(np.column_stack([np.ones_like(grid), grid]) @ weights)
    return special.expit(grid), np.asarray(right)


def _are_chances(said: Floats) -> bool:
    return bool(said.size and said.min() >= 0 and said.max() <= 1)


def _logits(chances: Floats) -> Floats:
    return np.log(np.clip(chances, _SURE, 1.0))
