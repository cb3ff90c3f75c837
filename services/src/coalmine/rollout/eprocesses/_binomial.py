"""Does the candidate have more events than stable, for its share of the requests?

Given the events of a block, each is the candidate's with a probability of at most its share of the
requests, if its rate is no higher than stable's. Nothing else of the rate matters, so it may change
with time as it likes: an incident that hits both arms multiplies both alike. (The events of two
binomial samples, given their sum, are hypergeometric: less spread than the binomial used here, so
that the expectation of this convex function only shrinks; Hoeffding 1963.)

Lindon, Malek: Anytime-valid inference for multinomial count data, NeurIPS 2022, arXiv:2011.03567.
"""

from __future__ import annotations

import numpy as np

from coalmine.rollout.eprocesses._mixture import log_mean_exp
from coalmine.rollout.eprocesses._two_sample import TwoArms

__all__ = ["log_e_more_events"]

#: The alternatives: how many times stable's rate the candidate's may be, and their weights. Chosen
#: so that a doubled rate is found soonest at little cost for the others
#: (tests/rollout/test_simulated.py).
_RATIOS = np.array([1.7, 3.0, 8.0])
_WEIGHTS = np.array([0.5, 0.3, 0.2])


def log_e_more_events(arms: TwoArms) -> float:
    """Evidence against `candidate rate <= stable rate`; the bad outcomes are the events.

    >>> import numpy as np
    >>> n = np.full(10, 100.0)
    >>> round(log_e_more_events(TwoArms(n, np.full(10, 4.0), n, np.full(10, 1.0))), 1)
    8.3
    >>> log_e_more_events(TwoArms(n, np.full(10, 4.0), n, np.full(10, 4.0))) < 0
    True
    """
    share = arms.candidate / (arms.candidate + arms.stable)
    events = arms.candidate_bad + arms.stable_bad
    mean = 1.0 + np.multiply.outer(_RATIOS - 1.0, share)
    logs = arms.candidate_bad.sum() * np.log(_RATIOS) - (events * np.log(mean)).sum(axis=1)
    return log_mean_exp(logs, weights=_WEIGHTS)
