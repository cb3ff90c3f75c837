"""Averages of e-values, in logarithms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "log_mean_exp"]

Floats = NDArray[np.float64]


def log_mean_exp(logs: Floats, *, weights: Floats | None = None) -> float:
    """The logarithm of the average; an average of e-values is an e-value. `weights` add up to one.

    >>> import numpy as np
    >>> round(log_mean_exp(np.log(np.array([1.0, 3.0]))), 4)
    0.6931
    """
    top = float(logs.max())
    each = np.exp(logs - top)
    return top + math.log(float(each.mean() if weights is None else each @ weights))
