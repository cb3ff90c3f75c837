"""Two Bernoulli samples in blocks: is the candidate's rate of bad outcomes within a margin?

Null hypotheses are sets of rate pairs (candidate, stable) bounded by a line: `candidate >= stable +
margin`, or `candidate <= stable + margin`. For an alternative (a, s) with the projection (a0, s0)
on the null, in Kullback-Leibler divergence weighted by the sizes of the samples, the likelihood
ratio of the block is an e-value: its expectation is the product of (1 + k(p - a0))^n over the arms,
whose logarithm is concave in the rates and touches zero at the projection. The null is convex, so
it is at most zero on all of it. Rates may differ from block to block.

Turner, Ly, Grünwald: Generic e-variables for exact sequential k-sample tests that allow for
optional stopping, J. Stat. Plan. Inference 230 (2024), arXiv:2106.02693; Turner, Grünwald: Exact
anytime-valid confidence intervals for contingency tables and beyond, arXiv:2203.09785.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats

__all__ = ["TwoArms", "log_e_rate_above", "log_e_rate_below"]

_BISECTIONS = 50


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
    if not arms.candidate.size:
        return 0.0
    a = _rate_before(arms.candidate, arms.candidate_bad, unit)
    s = _rate_before(arms.stable, arms.stable_bad, unit)
    # An alternative inside the null is no bet: the block's factor stays one.
    outside = sign * (s + margin - a) > 0
    s0 = _projection(a, s, margin=margin, weights=(arms.candidate, arms.stable))
    ratio = _log_ratio(arms.candidate, arms.candidate_bad, a, s0 + margin)
    ratio += _log_ratio(arms.stable, arms.stable_bad, s, s0)
    return float(np.sum(np.where(outside, ratio / unit, 0.0)))


def _rate_before(total: Floats, bad: Floats, unit: Floats) -> Floats:
    """The rate learnt from the blocks before each block (Krichevsky and Trofimov's estimate)."""
    bad_before = np.concatenate(([0.0], np.cumsum(bad / unit)[:-1]))
    total_before = np.concatenate(([0.0], np.cumsum(total / unit)[:-1]))
    rate: Floats = (bad_before + 0.5) / (total_before + 1.0)
    return rate


def _projection(a: Floats, s: Floats, *, margin: float, weights: tuple[Floats, Floats]) -> Floats:
    """Stable's rate at the point of the null's edge that is nearest to the alternative (a, s)."""
    n, m = weights
    low, high = np.full_like(s, 1e-12), np.full_like(s, 1.0 - margin - 1e-12)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        edge = middle + margin
        slope = n * (edge - a) / (edge * (1 - edge)) + m * (middle - s) / (middle * (1 - middle))
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    found: Floats = (low + high) / 2
    return found


def _log_ratio(total: Floats, bad: Floats, rate: Floats, null: Floats) -> Floats:
    ratio: Floats = bad * np.log(rate / null) + (total - bad) * np.log((1 - rate) / (1 - null))
    return ratio
