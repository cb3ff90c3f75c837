"""The rules beside each other: ours, and those of others as their documents set them up.

Others judge what they can see: the error rate and the p99 of each minute. Each was written after
the source named with it, in its own words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from coalmine.rollout import Policy, decide
from coalmine.spec import GuardsSpec
from coalmine_loadtests.verdicts._latency import p99_us
from coalmine_loadtests.verdicts._worlds import Run

__all__ = ["OURS", "POLICY", "RULES", "Fate", "ours"]

#: All five metrics guarded, as in a rollout with a shadow stage whose last step lasts half an hour.
POLICY = Policy(guards=GuardsSpec(prediction_drift=0.1), min_seconds=1800.0)
OURS = "Coalmine"


@dataclass(frozen=True, slots=True)
class Fate:
    """What a rule did with a candidate: `rolled_back`, `promoted` or `undecided`, and when."""

    what: str
    minute: int


def ours(run: Run, policy: Policy = POLICY) -> Fate:
    """`coalmine.rollout.decide`, asked every minute."""
    minute = 0
    for minute, evidence in enumerate(run.looks(), 1):
        kind = decide(evidence, policy).kind
        if kind == "regression":
            return Fate("rolled_back", minute)
        if kind == "non_inferior":
            return Fate("promoted", minute)
    return Fate("undecided", minute)


def _threshold(run: Run, *, in_a_row: int) -> Fate:
    """An alert rule: more than 1 % of a minute's requests fail, so many minutes in a row."""
    streak = 0
    minutes = run.requests.shape[1]
    for minute in range(minutes):
        n, e = run.requests[0, minute], run.errors[0, minute]
        streak = streak + 1 if n and e / n > 0.01 else 0
        if streak == in_a_row:
            return Fate("rolled_back", minute + 1)
    return Fate("promoted", minutes)


def _argo(run: Run, *, success: float, failure_limit: int) -> Fate:
    """Argo Rollouts 1.9 `AnalysisRun`: interval 1m, count 30.

    A measurement whose condition is false fails; more than `failureLimit` of them, and the run
    failed. No data (`result[0]` of nothing, or NaN) is an error; more than `consecutiveErrorLimit`
    (4) in a row, and the run ended in error; both abort (analysis.go: assessMetricStatus).
    """
    failed = errors = 0
    minutes = run.requests.shape[1]
    for minute in range(minutes):
        n, e = run.requests[0, minute], run.errors[0, minute]
        errors = 0 if n else errors + 1
        failed += bool(n and 1 - e / n < success)
        if failed > failure_limit or errors > 4:
            return Fate("rolled_back", minute + 1)
    return Fate("promoted", minutes)


def _flagger(run: Run) -> Fate:
    """Flagger 1.9, as in its documents: interval 1m, threshold 5, request-success-rate min 99,
    request-duration (p99) max 500 ms; 30 iterations.

    A metric without values is a failed check; failed checks add up over the analysis.
    """
    failed = 0
    minutes = run.requests.shape[1]
    for minute in range(minutes):
        n, e = run.requests[0, minute], run.errors[0, minute]
        slow = p99_us(run.latency[0, minute]) > 500_000.0
        failed += bool(not n or 1 - e / n < 0.99 or slow)
        if failed >= 5:
            return Fate("rolled_back", minute + 1)
    return Fate("promoted", minutes)


def _kayenta(run: Run) -> Fate:
    """Kayenta's NetflixACAJudge on errors and p99, baseline beside; marginal 75, pass 95.

    Judged after 10, 20 and 30 minutes on all points so far. A metric is High if the 98 % interval
    of the Hodges-Lehmann shift lies beyond a quarter of its estimate (MannWhitneyClassifier), and
    without data it does not count. Below `marginal` at any time it fails; at the end it passes at
    `pass` and above.
    """
    minutes = run.requests.shape[1]
    for until in (minutes // 3, 2 * minutes // 3, minutes):
        metrics = [_error_rates(run, until), _p99s(run, until)]
        known = [pair for pair in metrics if pair[0].size and pair[1].size]
        if not known:
            return Fate("rolled_back", until)
        score = 100.0 * sum(not _high(*pair) for pair in known) / len(known)
        if score < 75.0:
            return Fate("rolled_back", until)
    return Fate("promoted" if score >= 95.0 else "rolled_back", minutes)


Points = NDArray[np.float64]


def _error_rates(run: Run, until: int) -> tuple[Points, Points]:
    n, e = run.requests[:, :until], run.errors[:, :until]
    return e[0][n[0] > 0] / n[0][n[0] > 0], e[1][n[1] > 0] / n[1][n[1] > 0]


def _p99s(run: Run, until: int) -> tuple[Points, Points]:
    found = [np.array([p99_us(each) for each in run.latency[i, :until]]) for i in (0, 1)]
    return found[0][~np.isnan(found[0])], found[1][~np.isnan(found[1])]


def _high(candidate: Points, baseline: Points) -> bool:
    shifts = np.sort(np.subtract.outer(candidate, baseline), axis=None)
    n, m = candidate.size, baseline.size
    z = NormalDist().inv_cdf(0.99)
    below = math.floor(n * m / 2 - z * math.sqrt(n * m * (n + m + 1) / 12))
    if below < 0:
        return False
    return bool(shifts[below] > 0.25 * abs(float(np.median(shifts))) and shifts[below] > 0)


RULES: dict[str, Callable[[Run], Fate]] = {
    OURS: ours,
    "more than 1 %, once": lambda run: _threshold(run, in_a_row=1),
    "more than 1 %, 3 in a row": lambda run: _threshold(run, in_a_row=3),
    "Argo, success >= 95 %, failureLimit 3": lambda run: _argo(run, success=0.95, failure_limit=3),
    "Argo, success >= 99 %, failureLimit 3": lambda run: _argo(run, success=0.99, failure_limit=3),
    "Flagger, threshold 5": _flagger,
    "Kayenta, 75/95": _kayenta,
}
