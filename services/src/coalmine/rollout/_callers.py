"""Callers who stick to an arm: their requests are no independent draws.

A rollout deals out callers, not requests. If callers fail at rates of their own (a broken client,
an odd tenant), the arms differ by whom they got, for as long as it lasts, and counting requests
would make that certain. The design effect says how many requests weigh as much as one independent
one: the variance of the callers' errors about the common rate, over that of independent requests
(Kish, Survey Sampling, 1965; the ratio estimator of Cochran, Sampling Techniques, 1977, ch. 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coalmine.arms import Arm
from coalmine.rollout._evidence import Callers

__all__ = ["caller_effect", "requests_per_caller"]

#: With fewer, how they differ cannot be seen, and all requests of a caller count as one.
_ENOUGH_CALLERS = 50


def caller_effect(callers: Mapping[Arm, Callers] | None) -> float:
    """How many requests stand and fall together for their errors; 1: none, or callers unknown."""
    if not callers:
        return 1.0
    if sum(each.callers for each in callers.values()) < _ENOUGH_CALLERS:
        return requests_per_caller(callers.values())
    scatter = independent = 0.0
    for each in callers.values():
        if not each.requests:
            continue
        rate = each.errors / each.requests
        scatter += each.errors_squared - 2 * rate * each.requests_errors
        scatter += rate**2 * each.requests_squared
        independent += rate * (1.0 - rate) * each.requests
    return max(1.0, scatter / independent) if independent else 1.0


def requests_per_caller(callers: Iterable[Callers]) -> float:
    """Requests of the caller of a request chosen at random, on average: busy ones weigh more."""
    each = list(callers)
    requests = sum(c.requests for c in each)
    return max(1.0, sum(c.requests_squared for c in each) / requests) if requests else 1.0
