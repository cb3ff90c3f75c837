"""The fate of a trigger: a pure function of the ask, the situation and the service file."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalmine.retraining import WebhookInvalid
from coalmine.retraining._policy import REASONS, Situation, judge
from coalmine.retraining._standing import Standing, back_off_seconds, standing
from coalmine.retraining._types import Ask, Run
from coalmine.retraining._webhook import Alert, parse_notification
from coalmine.spec import RetrainingSpec

NOW = 1_000_000.0
POLICY = RetrainingSpec(pipeline="a:b", cooldown=600.0, daily_budget=2)
QUIET = Situation(now=NOW, model_name="demo", champion="3")
RUN = Run(id="retrain-1", kind="retrain", reason="r", actor="a", created=NOW, model_version="3")
BY_HAND = Ask("cli", "please", "cli@1", reason="please", actor="ann")
SCHEDULED = Ask("schedule", "24h", "schedule@1", reason="schedule 24h", actor="schedule")


def alert(**changes: Any) -> Alert:
    content = {
        "status": "firing",
        "labels": {"alertname": "CoalmineAccuracyLoss", "model_name": "demo", "revision": "3"},
        "startsAt": "2026-11-21T10:00:00Z",
    }
    return Alert.model_validate({**content, **changes})


def labelled(**labels: str) -> Alert:
    return alert(labels={**alert().labels, **labels})


def stood(**changes: Any) -> dict[str, Any]:
    return {"standing": Standing(**changes)}


def ended(outcome: str, at: float, **changes: Any) -> Run:
    return replace(RUN, state="finished", started=at - 1, ended=at, outcome=outcome, **changes)  # type: ignore[arg-type]


def test_an_alert_that_nothing_speaks_against_is_accepted() -> None:
    assert judge(alert().ask(), QUIET, POLICY).fate == "accepted"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (alert(status="resolved"), "resolved"),
        (labelled(alertname="CoalmineDrift"), "CoalmineDrift is not among retraining.alerts"),
        (labelled(alertname=""), "an alert without a name is not among retraining.alerts"),
        (labelled(model_name="other"), "about another model, other"),
        (labelled(revision="2"), "about version 2, and version 3 serves now"),
    ],
)
def test_an_alert_that_is_not_for_us_is_suppressed(given: Alert, reason: str) -> None:
    judgement = judge(given.ask(), QUIET, POLICY)
    assert (judgement.fate, judgement.reason) == ("suppressed", reason)
    assert judgement.code in REASONS


@pytest.mark.parametrize(
    ("change", "fate", "reason"),
    [
        ({"active": RUN}, "merged", "into run retrain-1"),
        ({"quality_incident": "a sensor"}, "suppressed", "data quality: a sensor"),
        ({"rollout": "4"}, "suppressed", "version 4 is being rolled out"),
        (stood(last_ended=NOW - 599), "suppressed", "cooldown of 600 s after the last run"),
        (stood(last_ended=NOW - 600), "accepted", ""),
        (stood(last_ended=NOW + 599), "suppressed", "cooldown of 600 s after the last run"),
        (stood(last_ended=NOW + 1e9), "accepted", ""),  # the clock was wrong then
        (stood(started=(NOW - 10, NOW - 9)), "suppressed", "daily budget of 2 runs is spent"),
        (stood(started=(NOW - 10, NOW - 86_400)), "accepted", ""),
        (
            stood(rejections=2, last_rejected=NOW - 43_000),
            "suppressed",
            "back-off of 43200 s after 2 rejected candidates in a row",
        ),
        (stood(rejections=2, last_rejected=NOW - 43_200), "accepted", ""),
        (
            stood(failures=3),
            "suppressed",
            "stopped after 3 failures in a row, until a person says: coalmine retrain reset",
        ),
        ({"champion": None}, "suppressed", "there is no champion yet"),
    ],
)
@pytest.mark.parametrize("ask", [alert().ask(), SCHEDULED], ids=["alert", "schedule"])
def test_the_situation_decides(ask: Ask, change: dict[str, Any], fate: str, reason: str) -> None:
    judgement = judge(ask, replace(QUIET, **change), POLICY)
    assert (judgement.fate, judgement.reason) == (fate, reason)
    assert judgement.code in ("", *REASONS)


def test_a_person_is_bound_by_all_but_cooldown_back_off_and_breaker() -> None:
    stand = Standing(last_ended=NOW, rejections=9, last_rejected=NOW, failures=9)
    assert judge(BY_HAND, replace(QUIET, standing=stand), POLICY).fate == "accepted"
    spent = Standing(started=(NOW, NOW))
    assert judge(BY_HAND, replace(QUIET, standing=spent), POLICY).fate == "suppressed"
    assert judge(BY_HAND, QUIET, None).reason == "the service file has no `retraining`"
    assert judge(alert().ask(), QUIET, None).fate == "suppressed"


def test_first_models_spend_neither_budget_nor_cooldown() -> None:
    first = replace(RUN, kind="bootstrap", state="finished", started=NOW, ended=NOW)
    found = standing([first, ended("rejected", NOW - 1)], champion="3", reset_at=None)
    assert (found.started, found.last_ended) == ((NOW - 2,), NOW - 1)


def test_rejections_count_in_a_row_and_about_one_champion() -> None:
    rejected, failed = ended("rejected", NOW), ended("failed", NOW - 5)
    back = ended("promoted-to-rollout", NOW - 9, verdict="rolled_back")
    under_way = ended("promoted-to-rollout", NOW)
    promoted = ended("promoted-to-rollout", NOW - 20, verdict="promoted")

    def count(*runs: Run, reset_at: float | None = None) -> int:
        return standing(runs, champion="3", reset_at=reset_at).rejections

    assert count(rejected, failed, back) == 2  # a failure neither counts nor ends the row
    assert count(under_way, rejected) == 1
    assert count(rejected, promoted, rejected) == 1
    assert count(rejected, replace(rejected, model_version="2")) == 1
    assert count(rejected, back, reset_at=NOW - 5) == 1  # a person has looked
    assert count() == 0


def test_failures_count_until_a_run_comes_to_a_decision() -> None:
    failed, late = ended("failed", NOW, error="no disk"), ended("timeout", NOW - 1)
    found = standing([failed, late, ended("rejected", NOW - 2)], champion="3", reset_at=None)
    assert (found.failures, found.last_failure) == (2, "no disk")
    assert not found.breaker_open(POLICY)
    assert standing([failed] * 3, champion="3", reset_at=None).breaker_open(POLICY)
    assert standing([failed] * 3, champion="3", reset_at=NOW).failures == 0
    assert standing([ended("rejected", NOW), failed], champion="3", reset_at=None).failures == 0


@given(st.integers(0, 10_000), st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_back_off_grows_and_is_capped(count: int, step: float, cap: float) -> None:
    policy = RetrainingSpec(pipeline="a:b", back_off=step, max_back_off=cap)
    one, more = back_off_seconds(policy, count), back_off_seconds(policy, count + 1)
    assert 0.0 <= one <= more <= cap


@pytest.mark.parametrize(
    ("text", "onset"),
    [
        ("1795255100", 1795255100.0),
        ("2026-11-21T09:59:00+00:00", 1795255140.0),
        ("soon", 1795255200.0),
        ("1895255100", 1795255200.0),  # later than the alert: not to be believed
        ("nan", 1795255200.0),
        ("-5", 1795255200.0),
        ("0001-01-01T00:00:00+23:59", 1795255200.0),
    ],
)
def test_the_onset_is_the_monitors_or_the_alerts_own(text: str, onset: float) -> None:
    assert alert(annotations={"onset": text}).onset == onset


def test_repetitions_of_one_alert_are_one() -> None:
    assert alert().identity == alert(annotations={"summary": "again"}).identity
    assert alert().identity != alert(startsAt="2026-11-21T10:00:01Z").identity


def test_a_notification_may_carry_more_than_we_read() -> None:
    body = {"version": "4", "groupKey": "x", "alerts": [json.loads(alert().model_dump_json())]}
    body["alerts"][0]["generatorURL"] = "http://prometheus"
    assert parse_notification(json.dumps(body).encode()).alerts == (alert(),)


def test_what_is_wrong_with_a_notification_is_named() -> None:
    with pytest.raises(WebhookInvalid, match=r"alerts\.0\.startsAt"):
        parse_notification(
            b'{"version": "4", "alerts": [{"status": "firing", "labels": {}, "startsAt": "x"}]}'
        )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
_TIMES = st.sampled_from(
    ["2026-11-21T10:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", 1e15, "x"]
)
_ALERTS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["firing", "resolved"]) | _JSON,
        "labels": st.dictionaries(st.text(max_size=9), st.text(max_size=9)) | _JSON,
        "startsAt": _TIMES | _JSON,
    },
    optional={
        "annotations": st.fixed_dictionaries({"onset": _TIMES.map(str)}) | _JSON,
        "fingerprint": _JSON,
    },
)


@given(
    st.fixed_dictionaries(
        {"version": st.just("4") | _JSON, "alerts": st.lists(_ALERTS, max_size=3) | _JSON},
        optional={"truncatedAlerts": _JSON},
    )
    | _JSON
)
def test_any_body_is_read_or_refused(body: Any) -> None:
    try:
        asks = parse_notification(json.dumps(body).encode()).asks()
    except WebhookInvalid:
        return
    for ask in asks:
        assert judge(ask, QUIET, POLICY).fate in ("accepted", "suppressed")
