"""Betting on a bounded mean: e-values for "the mean is at least m", without a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["STAKES", "bets_on_less"]

#: Shares of the largest possible stake that are bet side by side: small ones find small losses,
#: large ones are quick. Averaging their evidence costs at most a factor of their number, once.
STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)

Floats = NDArray[np.float64]


def bets_on_less(value: float, mean: float) -> Floats:
    """E-values, one per stake, of `value` in [0, 1] against "its expectation is at least `mean`".

    Each is `1 + stake * (mean - value) / (1 - mean)`: never negative, and at most 1 in expectation
    under the hypothesis, whatever else the distribution does.

    >>> bets_on_less(0.8, 0.9).round(2).tolist(), bets_on_less(1.0, 0.9)[-1].round(2).item()
    ([1.02, 1.05, 1.1, 1.2, 1.4, 1.8], 0.2)

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    2024.
    """
    return 1 + np.array(STAKES) * (mean - value) / (1 - mean)
