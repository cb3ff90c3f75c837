"""From how unusual to how much evidence: p-values become e-values, and e-values name features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["calibrate", "e_benjamini_hochberg"]

Floats = NDArray[np.float64]


def calibrate(p: Floats) -> Floats:
    """Turn p-values into e-values, with the mixture of all power calibrators.

    E[calibrate(P)] = 1 for a uniform P. It is 1/2 at p = 1, so that quiet windows lower the
    evidence without ever wiping it out, and grows as 1 / (p ln(p)**2).

    >>> calibrate(np.array([1.0, 0.05, 1e-6])).round(2).tolist()
    [0.5, 1.78, 5239.14]

    Source: Vovk and Wang, "E-values: calibration, combination and applications", 2021, eq. (4).
    """
    # At p = 1 the expression is 0/0, and very near it rounding eats the numerator.
    clipped = np.clip(p, 1e-300, 1 - 1e-4)
    log = np.log(clipped)
    return np.asarray((1 - clipped + clipped * log) / (clipped * log * log), dtype=np.float64)


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
