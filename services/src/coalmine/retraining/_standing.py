"""What past runs mean for the next: budget, cooldown, back-off and circuit breaker, pure functions.

Back-off: a candidate that was rejected, by the pipeline or by its rollout, will most likely be
rejected again. After n of them in a row about the same champion, alerts and the schedule wait
`back_off * 2**(n-1)`, at most `max_back_off`, from the end of the last. A promotion makes another
champion, so it ends the row. Failures neither count nor end it.

Breaker: after `max_failures` failures or timeouts in a row no alert and no schedule starts a run
until a person says so (`coalmine retrain reset`), or until a run that a person started comes to a
decision. A pipeline that is broken is not mended by running it.

Times are compared by their distance to now, so that a clock that was wrong for a while, in either
direction, blocks nothing for longer than the limit itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coalmine.retraining._types import Run
from coalmine.spec import RetrainingSpec

DAY = 86_400.0
_FAILURES = ("failed", "timeout")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a service stands after its runs so far. Times are seconds since the epoch."""

    last_ended: float | None = None
    """End of the last run that was no first model."""

    started: tuple[float, ...] = ()
    """Starts of such runs."""

    rejections: int = 0
    """Candidates rejected in a row, about the champion that serves now."""

    last_rejected: float | None = None
    failures: int = 0
    """Runs in a row that came to no decision."""

    last_failure: str = ""
    """What the last of them said."""

    last_failed_run: str = ""

    def cooldown_until(self, policy: RetrainingSpec, *, now: float) -> float | None:
        """The end of the cooldown, None if there is none now."""
        return _until(self.last_ended, policy.cooldown, now)

    def back_off_until(self, policy: RetrainingSpec, *, now: float) -> float | None:
        """The end of the back-off, None if there is none now."""
        if not self.rejections:
            return None
        return _until(self.last_rejected, back_off_seconds(policy, self.rejections), now)

    def runs_today(self, *, now: float) -> int:
        """Runs that started within a day."""
        return sum(abs(now - start) < DAY for start in self.started)

    def breaker_open(self, policy: RetrainingSpec) -> bool:
        """Whether a person is needed."""
        return self.failures >= policy.max_failures


def back_off_seconds(policy: RetrainingSpec, rejections: int) -> float:
    """How long to wait after so many rejected candidates in a row.

    >>> policy = RetrainingSpec(pipeline="a:b", back_off="6h", max_back_off="7d")
    >>> [back_off_seconds(policy, n) / 3600 for n in (0, 1, 2, 3, 60)]
    [0.0, 6.0, 12.0, 24.0, 168.0]
    """
    if rejections == 0:
        return 0.0
    doublings = min(rejections - 1, 60)  # beyond it the cap holds anyway, and a float overflows
    return min(policy.max_back_off, policy.back_off * 2.0**doublings)


def standing(runs: Sequence[Run], *, champion: str | None, reset_at: float | None) -> Standing:
    """Where the service stands after `runs`, newest first; a reset forgives what ended before."""
    counted = [run for run in runs if run.kind == "retrain" and run.started is not None]
    judged = [
        run
        for run in runs
        if run.state == "finished" and (reset_at is None or (run.ended or 0.0) > reset_at)
    ]
    rejected = list(_rejected(judged, champion or ""))
    failed = list(_failed(judged))
    return Standing(
        last_ended=max((run.ended for run in counted if run.ended is not None), default=None),
        started=tuple(run.started for run in counted if run.started is not None),
        rejections=len(rejected),
        last_rejected=rejected[0].ended if rejected else None,
        failures=len(failed),
        last_failure=(failed[0].error or failed[0].outcome or "") if failed else "",
        last_failed_run=failed[0].id if failed else "",
    )


def _rejected(runs: Iterable[Run], champion: str) -> Iterable[Run]:
    for run in runs:
        if run.model_version != champion or run.verdict == "promoted":
            return
        if run.outcome == "rejected" or run.verdict == "rolled_back":
            yield run


def _failed(runs: Iterable[Run]) -> Iterable[Run]:
    for run in runs:
        if run.outcome not in _FAILURES:
            return
        yield run


def _until(since: float | None, seconds: float, now: float) -> float | None:
    if since is None or abs(now - since) >= seconds:
        return None
    return since + seconds
