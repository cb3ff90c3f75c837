"""Whether a trigger starts a run: pure functions of the trigger and the situation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coalmine.retraining._store import Fate, Run
from coalmine.retraining._webhook import Alert
from coalmine.spec import RetrainingSpec

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when a trigger comes. Times are seconds since the epoch."""

    now: float
    model_name: str
    champion: str | None
    active: Run | None
    last_ended: float | None
    """End of the last run that an alert or a person started."""

    started: tuple[float, ...] = ()
    """Starts of such runs."""

    rollout: str | None = None
    """The version that is being rolled out now."""

    quality_incident: str | None = None
    """Summary of an open data-quality incident."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A trigger's fate, and why."""

    fate: Fate
    reason: str


def judge_alert(alert: Alert, situation: Situation, policy: RetrainingSpec | None) -> Judgement:
    """The fate of one alert; `accepted` is to become a run, `merged` belongs to the active one."""
    if policy is None:
        return Judgement("suppressed", "the service file has no `retraining`")
    refusal = _not_for_us(alert, situation, policy)
    if refusal is not None:
        return Judgement("suppressed", refusal)
    return _judge(situation, policy, cooldown=policy.cooldown)


def judge_request(situation: Situation, policy: RetrainingSpec | None) -> Judgement:
    """The fate of a person's request: as an alert's, without the cooldown."""
    if policy is None:
        return Judgement("suppressed", "the service file has no `retraining`")
    return _judge(situation, policy, cooldown=0.0)


def _not_for_us(alert: Alert, situation: Situation, policy: RetrainingSpec) -> str | None:
    """Why an alert could never start a run."""
    if alert.status == "resolved":
        return "resolved"
    if alert.name not in policy.alerts:
        return f"{alert.name or 'an alert without a name'} is not among retraining.alerts"
    model = alert.labels.get("model_name", situation.model_name)
    if model != situation.model_name:
        return f"about another model, {model}"
    revision = alert.labels.get("revision")
    if situation.champion is None:
        return "there is no champion yet"
    if revision is not None and revision != situation.champion:
        return f"about version {revision}, and version {situation.champion} serves now"
    return None


def _judge(situation: Situation, policy: RetrainingSpec, *, cooldown: float) -> Judgement:
    if situation.active is not None:
        return Judgement("merged", f"into run {situation.active.id}")
    if situation.quality_incident is not None:
        return Judgement("suppressed", f"data quality: {situation.quality_incident}")
    if situation.rollout is not None:
        return Judgement("suppressed", f"version {situation.rollout} is being rolled out")
    if situation.last_ended is not None and situation.now < situation.last_ended + cooldown:
        return Judgement("suppressed", f"cooldown of {cooldown:g} s after the last run")
    today = sum(start > situation.now - _DAY for start in situation.started)
    if today >= policy.daily_budget:
        return Judgement("suppressed", f"daily budget of {policy.daily_budget} runs is spent")
    return Judgement("accepted", "")


def counted_runs(runs: Sequence[Run]) -> tuple[tuple[float, ...], float | None]:
    """Starts, and the last end, of what cooldown and budget count: all but first models."""
    counted = [run for run in runs if run.kind == "retrain" and run.started is not None]
    ended = [run.ended for run in counted if run.ended is not None]
    return tuple(run.started for run in counted if run.started is not None), max(
        ended, default=None
    )
