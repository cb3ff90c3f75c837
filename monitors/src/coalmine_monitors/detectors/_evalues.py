"""From evidence to names: which of many features an alarm is about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["e_benjamini_hochberg"]

Floats = NDArray[np.float64]


def e_benjamini_hochberg(evidence: Floats, *, level: float) -> NDArray[np.bool_]:
    """Which hypotheses to reject at false discovery rate `level`, whatever their dependence.

    >>> e_benjamini_hochberg(np.array([500.0, 0.7, 21.0, 1.0]), level=0.1).tolist()
    [True, False, True, False]

    Source: Wang and Ramdas, "False discovery rate control with e-values", 2022.
    """
    order = np.argsort(-evidence, kind="stable")
    ranks = np.arange(1, evidence.size + 1)
    passes = np.flatnonzero(evidence[order] * ranks * level >= evidence.size)
    chosen = np.zeros(evidence.size, dtype=np.bool_)
    if passes.size:
        chosen[order[: passes[-1] + 1]] = True
    return chosen
