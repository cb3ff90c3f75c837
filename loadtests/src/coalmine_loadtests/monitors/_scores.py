"""From scores of windows to run lengths, thresholds at an equal run length, and delays."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["delays", "run_length", "threshold_for"]

Series = Sequence[float]


def run_length(nulls: Sequence[Series], threshold: float) -> float:
    """Windows between false alarms: windows until the first alarm of each run, per run with one.

    That is the maximum-likelihood estimate with runs that end without an alarm as censored;
    infinite if no run has one.

    >>> run_length([[0, 0, 5, 0], [0, 0, 0, 0]], 4.0)
    7.0
    """
    exposed = alarms = 0
    for scores in nulls:
        first = _first(scores, threshold)
        exposed += len(scores) if first is None else first + 1
        alarms += first is not None
    return exposed / alarms if alarms else math.inf


def threshold_for(nulls: Sequence[Series], *, target: float) -> float:
    """The lowest threshold with a realised run length of at least `target` windows.

    Where the runs are too few to say, it is just above the highest score seen.

    >>> threshold_for([[1, 2, 3, 4], [1, 1, 1, 1]], target=4)
    2
    """
    candidates = sorted({score for scores in nulls for score in scores})
    low, high = 0, len(candidates)
    while low < high:  # the run length grows with the threshold
        middle = (low + high) // 2
        if run_length(nulls, candidates[middle]) >= target:
            high = middle
        else:
            low = middle + 1
    if low < len(candidates):
        return candidates[low]
    return math.nextafter(candidates[-1], math.inf) if candidates else math.inf


def delays(shifted: Sequence[Series], threshold: float, *, change: int) -> list[float]:
    """Windows from the change to the alarm, 1 for the first one; infinite if it never came.

    `change` is the index of the first window that is moved. Runs with an alarm before it are left
    out: they are false alarms, which the threshold has paid for.
    """
    found: list[float] = []
    for scores in shifted:
        first = _first(scores, threshold)
        if first is None:
            found.append(math.inf)
        elif first >= change:
            found.append(float(first - change + 1))
    return found


def _first(scores: Series, threshold: float) -> int | None:
    return next((at for at, score in enumerate(scores) if score >= threshold), None)
