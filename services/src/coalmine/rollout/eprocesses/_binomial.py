"""Does the candidate have more events than stable, for its share of the requests?

Given the events of a block, each is the candidate's with a probability of at most its share of the
requests, if its rate is no higher than stable's. Nothing else of the rate matters, so it may change
with time as it likes: an incident that hits both arms multiplies both alike. (The events of two
binomial samples, given their sum, are hypergeometric: less spread than the binomial used here, so
that the expectation of this convex function only shrinks; Hoeffding 1963.)

Lindon, Malek: Anytime-valid inference for multinomial count data, NeurIPS 2022, arXiv:2011.03567.
"""

from __future__ import annotations

import math

import numpy as np

from coalmine.rollout.eprocesses._mixture import Floats, log_mean_exp
from coalmine.rollout.eprocesses._two_sample import TwoArms

__all__ = ["log_e_more_events", "spread_of_events"]

#: The alternatives: how many times stable's rate the candidate's may be, and their weights. Nearly
#: all is staked on what is hard to see, a rate that doubles; what is many times as bad shows
#: itself at these stakes too (docs/rollouts.md has what each regression is found by).
_RATIOS = np.array([1.8, 4.0, 12.0])
_WEIGHTS = np.array([0.8, 0.15, 0.05])
#: Blocks with events that it takes to see how alike the events of one block are.
_ENOUGH_BLOCKS = 30


def log_e_more_events(arms: TwoArms, *, unit: Floats | float = 1.0) -> float:
    """Evidence against `candidate rate <= stable rate`; the bad outcomes are the events.

    `unit` is how many events stand and fall together, by block [B] or for all. Each event's factor
    is taken to the power 1/unit: the geometric mean of factors is at most their arithmetic mean,
    which is an e-value however alike the events are.

    >>> import numpy as np
    >>> n = np.full(10, 100.0)
    >>> round(log_e_more_events(TwoArms(n, np.full(10, 4.0), n, np.full(10, 1.0))), 1)
    8.0
    >>> log_e_more_events(TwoArms(n, np.full(10, 4.0), n, np.full(10, 4.0))) < 0
    True
    """
    share = arms.candidate / (arms.candidate + arms.stable)
    events = (arms.candidate_bad + arms.stable_bad) / unit
    mean = 1.0 + np.multiply.outer(_RATIOS - 1.0, share)
    mine = (arms.candidate_bad / unit).sum()
    logs = mine * np.log(_RATIOS) - (events * np.log(mean)).sum(axis=1)
    return log_mean_exp(logs, weights=_WEIGHTS)


def spread_of_events(arms: TwoArms) -> Floats:
    """How many of a block's events stand and fall together, at most all of them; [B].

    Events come in bursts that hit one arm (a pause of its process, a queue behind one long
    request). So a block with far more events than most counts as one that has not: that looks at
    the arms' sum only, given which the test is made. What is left is seen in the candidate's part
    of each block's events, which scatters by more than the binomial law allows: McCullagh and
    Nelder's dispersion (Generalized Linear Models, 1989, section 4.5). It is an estimate, so that
    the e-value is one only nearly; while there are few blocks, all events of a block count as one.
    """
    events = arms.candidate_bad + arms.stable_bad
    some = events > 0
    alike: Floats = np.maximum(events, 1.0)
    blocks = int(some.sum())
    if blocks < _ENOUGH_BLOCKS:
        return alike
    usual = float(np.median(events[some]))
    burst = np.maximum(1.0, events / (usual + 2.0 * math.sqrt(usual)))
    share = (arms.candidate / (arms.candidate + arms.stable))[some]
    total, mine = (events / burst)[some], (arms.candidate_bad / burst)[some]
    odds = _odds(mine.sum(), total=total, share=share)
    part = odds * share / (1.0 - share + odds * share)
    scatter = ((mine - total * part) ** 2 / (total * part * (1.0 - part))).sum() / (blocks - 1)
    return np.minimum(alike, burst * max(1.0, float(scatter)))


def _odds(mine: float, *, total: Floats, share: Floats) -> float:
    """The candidate's rate in stable's that explains its number of events; never quite 0."""
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        odds = math.exp(middle)
        expected = float((total * odds * share / (1.0 - share + odds * share)).sum())
        low, high = (middle, high) if expected < mine else (low, middle)
    return math.exp((low + high) / 2)
