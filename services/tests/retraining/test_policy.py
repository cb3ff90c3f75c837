"""The fate of a trigger: a pure function."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from coalmine.retraining import WebhookInvalid
from coalmine.retraining._policy import Situation, counted_runs, judge_alert, judge_request
from coalmine.retraining._store import Run
from coalmine.retraining._webhook import Alert, parse_notification
from coalmine.spec import RetrainingSpec

NOW = 1_000_000.0
POLICY = RetrainingSpec(pipeline="a:b", cooldown=600.0, daily_budget=2)
QUIET = Situation(now=NOW, model_name="demo", champion="3", active=None, last_ended=None)
RUN = Run(id="retrain-1", kind="retrain", reason="r", actor="a", created=NOW)


def alert(**changes: Any) -> Alert:
    content = {
        "status": "firing",
        "labels": {"alertname": "CoalmineAccuracyLoss", "model_name": "demo", "revision": "3"},
        "startsAt": "2026-11-21T10:00:00Z",
    }
    return Alert.model_validate({**content, **changes})


def labelled(**labels: str) -> Alert:
    return alert(
        labels={
            "alertname": "CoalmineAccuracyLoss",
            "model_name": "demo",
            "revision": "3",
            **labels,
        }
    )


def test_an_alert_that_nothing_speaks_against_is_accepted() -> None:
    assert judge_alert(alert(), QUIET, POLICY).fate == "accepted"


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
    judgement = judge_alert(given, QUIET, POLICY)
    assert (judgement.fate, judgement.reason) == ("suppressed", reason)


@pytest.mark.parametrize(
    ("change", "fate", "reason"),
    [
        ({"active": RUN}, "merged", "into run retrain-1"),
        ({"quality_incident": "a sensor"}, "suppressed", "data quality: a sensor"),
        ({"rollout": "4"}, "suppressed", "version 4 is being rolled out"),
        ({"last_ended": NOW - 599}, "suppressed", "cooldown of 600 s after the last run"),
        ({"last_ended": NOW - 600}, "accepted", ""),
        ({"started": (NOW - 10, NOW - 9)}, "suppressed", "daily budget of 2 runs is spent"),
        ({"started": (NOW - 10, NOW - 86_400)}, "accepted", ""),
        ({"champion": None}, "suppressed", "there is no champion yet"),
    ],
)
def test_the_situation_decides(change: dict[str, Any], fate: str, reason: str) -> None:
    judgement = judge_alert(alert(), replace(QUIET, **change), POLICY)
    assert (judgement.fate, judgement.reason) == (fate, reason)


def test_a_person_is_bound_by_all_but_the_cooldown() -> None:
    assert judge_request(replace(QUIET, last_ended=NOW), POLICY).fate == "accepted"
    spent = replace(QUIET, started=(NOW, NOW))
    assert judge_request(spent, POLICY).fate == "suppressed"
    assert judge_request(QUIET, None).reason == "the service file has no `retraining`"
    assert judge_alert(alert(), QUIET, None).fate == "suppressed"


def test_first_models_spend_neither_budget_nor_cooldown() -> None:
    first = replace(RUN, kind="bootstrap", started=NOW, ended=NOW)
    second = replace(RUN, started=NOW - 5, ended=NOW - 1)
    assert counted_runs([first, second, replace(RUN, id="waits")]) == ((NOW - 5,), NOW - 1)
    assert counted_runs([first]) == ((), None)


@pytest.mark.parametrize(
    ("text", "onset"),
    [
        ("1795255100", 1795255100.0),
        ("2026-11-21T09:59:00+00:00", 1795255140.0),
        ("soon", 1795255200.0),
        ("1895255100", 1795255200.0),  # later than the alert: not to be believed
        ("nan", 1795255200.0),
        ("-5", 1795255200.0),
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
