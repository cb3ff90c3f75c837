"""Do two arms give the same answers: by how much does a class's share of them differ?

The null hypotheses are about every class at once: *no* class's share differs by more than the
margin (against it speaks a regression), and *some* class's does (against it speaks
non-inferiority). Each class and direction is a test of `_two_sample`, where the rates of earlier
blocks are learnt. The average of e-values speaks against the first, the least of them against the
second (an intersection-union test; Berger, Technometrics 24, 1982).
"""

from __future__ import annotations

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats, log_mean_exp
from coalmine.rollout.eprocesses._two_sample import TwoArms, log_e_beyond

__all__ = ["log_e_shares_differ", "log_e_shares_within"]


def log_e_shares_differ(candidate: Floats, stable: Floats, *, margin: float, unit: Floats) -> float:
    """Evidence against `every class's share is within the margin`, of counts [classes, B].

    >>> import numpy as np
    >>> a, b = np.full((2, 20), 25.0), np.array([[10.0], [40.0]]) * np.ones((2, 20))
    >>> log_e_shares_differ(a, b, margin=0.1, unit=np.ones(20)) > 20
    True
    """
    if not candidate.size:
        return 0.0
    return log_mean_exp(_log_e(candidate, stable, margin=margin, unit=unit, sign=-1.0))


def log_e_shares_within(candidate: Floats, stable: Floats, *, margin: float, unit: Floats) -> float:
    """Evidence against `some class's share differs by the margin or more`."""
    if not candidate.size:
        return 0.0
    return float(_log_e(candidate, stable, margin=margin, unit=unit, sign=1.0).min())


def _log_e(
    candidate: Floats, stable: Floats, *, margin: float, unit: Floats, sign: float
) -> Floats:
    mine, others = (np.broadcast_to(each.sum(0), each.shape) for each in (candidate, stable))
    both_ways = TwoArms(
        candidate=np.concatenate([mine, others]),
        candidate_bad=np.concatenate([candidate, stable]),
        stable=np.concatenate([others, mine]),
        stable_bad=np.concatenate([stable, candidate]),
    )
    return log_e_beyond(both_ways, margin=margin, unit=unit, sign=sign)
