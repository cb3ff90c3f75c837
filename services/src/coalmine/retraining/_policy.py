"""Whether what asks for a run gets one: a pure function of the ask and the situation."""

from __future__ import annotations

from dataclasses import dataclass, field

from coalmine.retraining._standing import Standing, back_off_seconds
from coalmine.retraining._types import Ask, Judgement, Run
from coalmine.spec import RetrainingSpec

#: The kinds of reasons why a trigger is suppressed, as the metric's label has them.
REASONS = (
    *("not_configured", "resolved", "not_listed", "other_model", "other_version", "no_champion"),
    *("breaker", "data_quality", "rollout", "cooldown", "back_off", "budget"),
    "not_ready",  # accepted, and then not started: the labels did not come, say
)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when something asks for a run."""

    now: float
    """Seconds since the epoch."""

    model_name: str
    champion: str | None
    active: Run | None = None
    standing: Standing = field(default_factory=Standing)
    rollout: str | None = None
    """The version that is being rolled out now."""

    quality_incident: str | None = None
    """An open data-quality incident that touches the model's features."""


def judge(ask: Ask, situation: Situation, policy: RetrainingSpec | None) -> Judgement:
    """The fate of an ask; `accepted` is to become a run, `merged` belongs to the active one.

    A person is bound by all but the cooldown, the back-off and the breaker: who asks by hand has
    looked. For a first model only a run under way counts.
    """
    if policy is None:
        return _suppressed("not_configured", "the service file has no `retraining`")
    if ask.source == "alert" and (refusal := _not_for_us(ask, situation, policy)):
        return refusal
    if ask.source in ("alert", "schedule") and situation.champion is None:
        return _suppressed("no_champion", "there is no champion yet")
    if situation.active is not None:
        return Judgement("merged", "", f"into run {situation.active.id}")
    if ask.source != "start" and (refusal := _not_now(ask, situation, policy)):
        return refusal
    return Judgement("accepted", "", "")


def _suppressed(code: str, reason: str) -> Judgement:
    return Judgement("suppressed", code, reason)


def _not_for_us(ask: Ask, situation: Situation, policy: RetrainingSpec) -> Judgement | None:
    """Why an alert could never start a run."""
    if ask.resolved:
        return _suppressed("resolved", "resolved")
    if ask.name not in policy.alerts:
        name = ask.name or "an alert without a name"
        return _suppressed("not_listed", f"{name} is not among retraining.alerts")
    if ask.model_name not in (None, situation.model_name):
        return _suppressed("other_model", f"about another model, {ask.model_name}")
    if situation.champion is not None and ask.model_version not in (None, situation.champion):
        now = f"version {situation.champion} serves now"
        return _suppressed("other_version", f"about version {ask.model_version}, and {now}")
    return None


def _not_now(ask: Ask, situation: Situation, policy: RetrainingSpec) -> Judgement | None:
    """Why there may be no run at present."""
    stand, now = situation.standing, situation.now
    by_hand = ask.source in ("cli", "http")
    if not by_hand and stand.breaker_open(policy):
        told = "until a person says: coalmine retrain reset"
        return _suppressed("breaker", f"stopped after {stand.failures} failures in a row, {told}")
    if situation.quality_incident is not None:
        return _suppressed("data_quality", f"data quality: {situation.quality_incident}")
    if situation.rollout is not None:
        return _suppressed("rollout", f"version {situation.rollout} is being rolled out")
    if not by_hand and stand.cooldown_until(policy, now=now) is not None:
        return _suppressed("cooldown", f"cooldown of {policy.cooldown:g} s after the last run")
    if not by_hand and stand.back_off_until(policy, now=now) is not None:
        seconds = back_off_seconds(policy, stand.rejections)
        count = f"{stand.rejections} rejected candidate{'s' * (stand.rejections > 1)} in a row"
        return _suppressed("back_off", f"back-off of {seconds:g} s after {count}")
    if stand.runs_today(now=now) >= policy.daily_budget:
        return _suppressed("budget", f"daily budget of {policy.daily_budget} runs is spent")
    return None
