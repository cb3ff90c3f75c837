"""Did the arms get their shares of the requests? The sample ratio, checked while it is watched.

Under the weights each request goes to an arm with a probability of its own, whatever the others
do. A mixture of likelihood ratios over fixed alternatives in both directions is a martingale; with
a tolerance, it is one at the edges of the interval and shrinks inside, since the expectation of a
ratio is monotone in the share.

Lindon, Malek: Anytime-valid inference for multinomial count data, NeurIPS 2022, arXiv:2011.03567.
"""

from __future__ import annotations

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats, log_mean_exp

__all__ = ["log_e_share_off"]

#: By which factors the odds of an arm may be off, in either direction.
_OFF = np.array([1.05, 1.15, 1.5, 3.0, 20.0])


def log_e_share_off(
    mine: Floats, total: Floats, *, share: Floats, tolerance: float, unit: Floats
) -> float:
    """Evidence against `mine of total requests are the share`, give or take a part of the share.

    Counts, shares (in (0, 1)) and `unit`, the requests that stand and fall together, are by window
    of constant weights, [W].

    >>> import numpy as np
    >>> one = np.ones(1)
    >>> off = log_e_share_off(130 * one, 1000 * one, share=0.1 * one, tolerance=0.05, unit=one)
    >>> round(off, 1)
    0.7
    """
    if not mine.size:
        return 0.0
    smaller = np.minimum(share, 1.0 - share)
    logs = []
    for sign in (1.0, -1.0):
        edge = share + sign * tolerance * smaller
        odds = np.multiply.outer(_OFF**sign, edge / (1.0 - edge))
        alternative = odds / (1.0 + odds)
        ratio = mine * np.log(alternative / edge)
        ratio += (total - mine) * np.log((1.0 - alternative) / (1.0 - edge))
        logs.append((ratio / unit).sum(axis=1))
    return log_mean_exp(np.concatenate(logs))
