"""Is the mean of bounded numbers positive? Bets on each, before it is seen.

Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, JRSS B 86 (2024),
arXiv:2010.09686. The stakes are fixed fractions of what may be staked, averaged: the result does
not depend on the order of the numbers.
"""

from __future__ import annotations

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats, log_mean_exp

__all__ = ["log_e_mean_positive"]

_STAKES = np.array([0.2, 0.5, 0.95])


def log_e_mean_positive(values: Floats, *, lowest: float) -> float:
    """Evidence against `mean <= 0` of numbers [B] that are never below `lowest` (negative).

    >>> import numpy as np
    >>> round(log_e_mean_positive(np.full(30, 0.15), lowest=-0.85), 1)
    3.7
    """
    if not values.size:
        return 0.0
    bets = _STAKES / -lowest
    return log_mean_exp(np.log1p(np.multiply.outer(bets, values)).sum(axis=1))
