"""Two Bernoulli samples in blocks: is the candidate's rate of bad outcomes within a margin?

Null hypotheses are sets of rate pairs (candidate, stable) bounded by a line: `candidate >= stable +
margin`, or `candidate <= stable + margin`. For an alternative (a, s) with the projection (a0, s0)
on the null, in Kullback-Leibler divergence weighted by the sizes of the samples, the likelihood
ratio of the block is an e-value: its expectation is the product of (1 + k(p - a0))^n over the arms,
whose logarithm is concave in the rates and touches zero at the projection. The null is convex, so
it is at most zero on all of it. Rates may differ from block to block.

Turner, Ly, Grünwald: Generic e-variables for exact sequential k-sample tests that allow for
optional stopping, J. Stat. Plan. Inference 230 (2024), arXiv:2106.02693; Turner, Grünwald: Exact
anytime-valid confidence intervals for contingency tables and beyond, arXiv:2203.09785. The
projection is the root of a cubic (Farrington, Manning: Statistics in Medicine 9, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats

__all__ = ["TwoArms", "log_e_beyond", "log_e_rate_above", "log_e_rate_below"]

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class TwoArms:
    """Counts by block, in order of time: outcomes, and the bad ones among them. Floats [B]."""

    candidate: Floats
    candidate_bad: Floats
    stable: Floats
    stable_bad: Floats


def log_e_rate_below(arms: TwoArms, *, margin: float, unit: Floats) -> float:
    """Evidence against `candidate rate >= stable rate + margin`: for non-inferiority.

    `unit` [B] is how many outcomes of a block stand and fall together (1: they are independent).
    Each factor is taken to the power 1/unit, which leaves an e-value of whole units: the geometric
    mean of their members' factors is at most the arithmetic one.

    >>> import numpy as np
    >>> n, none, one = np.full(20, 50.0), np.zeros(20), np.ones(20)
    >>> round(log_e_rate_below(TwoArms(n, none, n, none), margin=0.01, unit=one), 1)
    8.1
    """
    return _log_e(arms, margin=margin, unit=unit, sign=1.0)


def log_e_rate_above(arms: TwoArms, *, margin: float, unit: Floats) -> float:
    """Evidence against `candidate rate <= stable rate + margin`: for a regression."""
    return _log_e(arms, margin=margin, unit=unit, sign=-1.0)


def _log_e(arms: TwoArms, *, margin: float, unit: Floats, sign: float) -> float:
    return float(log_e_beyond(arms, margin=margin, unit=unit, sign=sign))


def log_e_beyond(arms: TwoArms, *, margin: float, unit: Floats, sign: float) -> Floats:
    """Both of the above, of several outcomes at once: counts [..., B], e-values [...].

    `sign` is 1 against `candidate rate >= stable rate + margin`, -1 against `<=`.
    """
    a = _rate_before(arms.candidate, arms.candidate_bad, unit)
    s = _rate_before(arms.stable, arms.stable_bad, unit)
    # An alternative inside the null is no bet: the block's factor stays one.
    outside = sign * (s + margin - a) > 0
    s0 = _projection(a, s, margin=margin, weights=(arms.candidate, arms.stable))
    ratio = _log_ratio(arms.candidate, arms.candidate_bad, a, s0 + margin)
    ratio += _log_ratio(arms.stable, arms.stable_bad, s, s0)
    found: Floats = np.where(outside, ratio / unit, 0.0).sum(axis=-1)
    return found


def _rate_before(total: Floats, bad: Floats, unit: Floats) -> Floats:
    """The rate learnt from the blocks before each block (Krichevsky and Trofimov's estimate)."""
    bad, total = bad / unit, total / unit
    rate: Floats = (np.cumsum(bad, axis=-1) - bad + 0.5) / (np.cumsum(total, axis=-1) - total + 1.0)
    return np.clip(rate, _TINY, 1.0 - _TINY)


def _projection(a: Floats, s: Floats, *, margin: float, weights: tuple[Floats, Floats]) -> Floats:
    """Stable's rate at the point of the null's edge that is nearest to the alternative (a, s)."""
    theta = weights[1] / weights[0]
    if not margin:
        pooled: Floats = (a + theta * s) / (1.0 + theta)
        return pooled
    third = 3.0 * (1.0 + theta)
    b = -(1.0 + theta + a + theta * s + margin * (theta + 2.0)) / third
    c = (margin**2 + margin * (2.0 * a + theta + 1.0) + a + theta * s) / third
    v = b * b * b - 1.5 * b * c - 1.5 * a * margin * (1.0 + margin) / third
    u = np.copysign(np.sqrt(np.maximum(b**2 - c, _TINY**2)), v)
    angle = (np.pi + np.arccos(np.clip(v / (u * u * u), -1.0, 1.0))) / 3.0
    found = 2.0 * u * np.cos(angle) - b - margin
    low, high = _TINY, 1.0 - margin - _TINY
    # The root loses digits near the borders: steps of Newton give them back.
    for _ in range(2):
        q = np.clip(found, low, high)
        e = q + margin
        slope = (e - a) / (e * (1 - e)) + theta * (q - s) / (q * (1 - q))
        curve = a / e**2 + (1 - a) / (1 - e) ** 2 + theta * (s / q**2 + (1 - s) / (1 - q) ** 2)
        found = q - slope / curve
    clipped: Floats = np.clip(found, low, high)
    return clipped


def _log_ratio(total: Floats, bad: Floats, rate: Floats, null: Floats) -> Floats:
    ratio: Floats = bad * np.log(rate / null) + (total - bad) * np.log((1 - rate) / (1 - null))
    return ratio
