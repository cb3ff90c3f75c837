"""Two models, the same labelled instances: what counts is where only one of them is right.

A bet on each instance, as in `_betting`, which needs only totals: instances on which the candidate
alone is right (+1), stable alone (-1), or both alike (0). Instances of one request are alike, so
the bets of a request count as one (`unit`): the geometric mean of their factors is at most the
factor of their mean, which is an e-value of the request.

Waudby-Smith, Ramdas: arXiv:2010.09686; on pairs it is a sequential McNemar test.
"""

from __future__ import annotations

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats, log_mean_exp

__all__ = ["log_e_candidate_better", "log_e_candidate_worse"]

#: The best stake is the expected gain over the share of uneven pairs: small where two equal models
#: often differ, large where one of them loses nearly always.
_STAKES = np.array([0.05, 0.15, 0.35, 0.8])
_EQUAL = np.full(4, 0.25)
#: For a regression: two points lost among 8 % of uneven pairs is what is hard to see. A model that
#: is much worse shows itself at these stakes too.
_WORSE_STAKES = np.array([0.25, 0.8])
_WORSE_WEIGHTS = np.array([0.9, 0.1])


def log_e_candidate_better(
    won: Floats, lost: Floats, even: Floats, *, margin: float, unit: Floats
) -> float:
    """Evidence against `candidate accuracy <= stable accuracy - margin`: for non-inferiority.

    Counts and `unit` are by block, [B].

    >>> import numpy as np
    >>> one = np.ones(1)
    >>> round(log_e_candidate_better(20 * one, 20 * one, 960 * one, margin=0.02, unit=one), 1)
    3.2
    """
    counts = (won, lost, even)
    return _log_e(counts, margin=margin, unit=unit, stakes=_STAKES, weights=_EQUAL)


def log_e_candidate_worse(won: Floats, lost: Floats, even: Floats, *, unit: Floats) -> float:
    """Evidence against `candidate accuracy >= stable accuracy`: for a regression."""
    counts = (lost, won, even)
    return _log_e(counts, margin=0.0, unit=unit, stakes=_WORSE_STAKES, weights=_WORSE_WEIGHTS)


def _log_e(
    counts: tuple[Floats, Floats, Floats],
    *,
    margin: float,
    unit: Floats,
    stakes: Floats,
    weights: Floats,
) -> float:
    up, down, even = counts
    if not up.size:
        return 0.0
    bets = stakes / (1.0 - margin)
    logs = (
        (up / unit).sum() * np.log1p(bets * (1.0 + margin))
        + (down / unit).sum() * np.log1p(bets * (margin - 1.0))
        + (even / unit).sum() * np.log1p(bets * margin)
    )
    return log_mean_exp(logs, weights=weights)
