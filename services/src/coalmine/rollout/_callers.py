"""Callers who stick to an arm: their requests are no independent draws.

A rollout deals out callers, not requests. If callers fail at rates of their own (a broken client,
an odd tenant), the arms differ by whom they got, for as long as it lasts, and counting requests
would make that certain. The design effect says how many requests weigh as much as one independent
one: the variance of the callers' errors about the common rate, over that of independent requests
(Kish, Survey Sampling, 1965; the ratio estimator of Cochran, Sampling Techniques, 1977, ch. 3).
A variance of few callers is known badly, so it is taken at the upper end of its interval (by the
chi-squared law, with one degree of freedom less than the arm of the fewest callers has callers);
and no more of a caller's requests can stand and fall together than all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from coalmine.arms import Arm
from coalmine.rollout._evidence import Callers

__all__ = ["caller_effect", "requests_per_caller"]

#: The variance is larger than assumed in one of twenty cases.
_Z = 1.645


def caller_effect(callers: Mapping[Arm, Callers] | None) -> float:
    """How many requests stand and fall together for their errors; 1: none, or callers unknown.

    Of the arms that callers were dealt out to: the shadow's are stable's.
    """
    callers = {arm: each for arm, each in (callers or {}).items() if arm is not Arm.SHADOW}
    if not callers:
        return 1.0
    scatter = independent = 0.0
    for each in callers.values():
        if not each.requests:
            continue
        rate = each.errors / each.requests
        scatter += each.errors_squared - 2 * rate * each.requests_errors
        scatter += rate**2 * each.requests_squared
        independent += rate * (1.0 - rate) * each.requests
    effect = max(1.0, scatter / independent) if independent else 1.0
    fewest = min((each.callers for each in callers.values() if each.requests), default=0)
    return min(requests_per_caller(callers.values()), effect * _inflation(fewest - 1))


def _inflation(freedom: int) -> float:
    """By how much a variance may be larger than its estimate (Wilson and Hilferty, 1931)."""
    if freedom < 1:
        return math.inf
    part = 2.0 / (9.0 * freedom)
    return 1.0 / max(1.0 - part - _Z * math.sqrt(part), 1e-9) ** 3


def requests_per_caller(callers: Iterable[Callers]) -> float:
    """Requests of the caller of a request chosen at random, on average: busy ones weigh more."""
    each = list(callers)
    requests = sum(c.requests for c in each)
    return max(1.0, sum(c.requests_squared for c in each) / requests) if requests else 1.0
