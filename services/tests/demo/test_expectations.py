"""Expectations in both directions: a good run passes, and each way to go wrong is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coalmine.demo._expectations import judge
from coalmine.demo._history import WeightSample, disagreements
from coalmine.demo._ledger import Accuracy, Phase
from coalmine.demo._options import Scenario

from .stories import (
    BOOTSTRAP,
    FIRST,
    INJECTED,
    RETRAINING,
    SECOND,
    TRIGGER,
    accuracy,
    good_facts,
    incident,
)

C, W, S, B, N = Scenario  # chemistry, cold (winter), sensor-fault, bad-candidate, none
BEFORE, AFTER = accuracy(0.972), accuracy(0.951)


def lower_after() -> dict[Phase, Accuracy]:
    return {Phase.BEFORE: BEFORE, Phase.DURING: BEFORE, Phase.AFTER: AFTER}


@pytest.mark.parametrize("scenario", list(Scenario))
def test_a_good_run_passes(scenario: Scenario) -> None:
    failed = [check for check in judge(good_facts(scenario)) if not check.ok]
    assert failed == []


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"failed_requests": 1}, "every request was answered"),
        ({"requests": 0}, "every request was answered"),
        ({"records_in_log": 89_999}, "every record reached the log"),
        ({"records_in_log": 90_001}, "every record reached the log"),
        ({"records_in_log": 89_990, "records_dropped": 10}, "every record reached the log"),
        ({"labels_delivered": 71_999}, "every label was delivered"),
        ({"weight_mismatches": 1}, "the gateway's weights are the controller's"),
        ({"weight_samples": 0}, "the gateway's weights are the controller's"),
        ({"problem": "interrupted"}, "the run went to its end"),
    ],
)
def test_what_holds_in_every_scenario(
    scenario: Scenario, change: dict[str, Any], told: str
) -> None:
    failed = [
        check.name for check in judge(replace(good_facts(scenario), **change)) if not check.ok
    ]
    assert failed == [told]


BAD: list[tuple[Scenario, dict[str, Any], str]] = [
    (C, {"incidents": ()}, "the drift was detected"),
    (C, {"triggers": ()}, "an alert reached the retrainer"),
    (C, {"runs": (BOOTSTRAP,)}, "retraining made a better model"),
    (C, {"runs": (BOOTSTRAP, replace(RETRAINING, outcome="rejected"))},
     "retraining made a better model"),
    (C, {"rollouts": (FIRST, replace(SECOND, state="holding"))}, "the new model was promoted"),
    (C, {"rollouts": (FIRST, replace(SECOND, states=("pending", "promoted")))},
     "the new model went through shadow and canary"),
    (C, {"stable_after": "1"}, "the new model was promoted"),
    (C, {"accuracy": lower_after()}, "accuracy recovered to within 2 points"),
    (W, {"incidents": ()}, "the drift was reported"),
    (W, {"incidents": (incident("accuracy"),)}, "the drift was reported"),
    (W, {"rollouts": (FIRST, SECOND), "stable_after": "2"}, "no other model was promoted"),
    (W, {"accuracy": lower_after()}, "accuracy held to within 2 points"),
    (S, {"incidents": (incident("data_quality", "soc"),)},
     "a data fault names pack_voltage_residual"),
    (S, {"incidents": ()}, "a data fault names pack_voltage_residual"),
    (S, {"runs": (BOOTSTRAP, replace(RETRAINING, outcome="rejected"))}, "nothing was retrained"),
    (B, {"rollouts": (FIRST,)}, "it was rolled back"),
    (B, {"rollouts": (FIRST, replace(SECOND, verdict="regression", state="holding"))},
     "it was rolled back"),
    (B, {"rollouts": (FIRST, SECOND), "stable_after": "2"}, "the canary was judged a regression"),
    (B, {"weights_after": {"stable": 90, "canary": 10}}, "all traffic is back on stable"),
    (N, {"incidents": (incident("drift", "soc"),)}, "no alarm"),
    (S, {"runs": (BOOTSTRAP, replace(RETRAINING, started=None, ended=None, outcome=None))},
     "nothing was retrained"),
    (N, {"triggers": (TRIGGER,)}, "no alert"),
    (N, {"runs": (BOOTSTRAP, RETRAINING)}, "nothing was retrained"),
    (N, {"stable_after": None}, "the stable model was not touched"),
]  # fmt: skip


@pytest.mark.parametrize(("scenario", "change", "told"), BAD)
def test_what_a_scenario_forbids(scenario: Scenario, change: dict[str, Any], told: str) -> None:
    failed = [
        check.name for check in judge(replace(good_facts(scenario), **change)) if not check.ok
    ]
    assert told in failed


def test_an_alarm_before_the_world_changed_is_a_false_one() -> None:
    early = incident("drift", "soc", opened=INJECTED - 5)
    facts = good_facts(W)
    failed = [c.name for c in judge(replace(facts, incidents=(early,))) if not c.ok]
    assert failed == ["the drift was reported", "nothing was alarmed before anything had happened"]


def test_a_phase_without_answers_is_no_recovery() -> None:
    nothing = Accuracy(float("nan"), 0.0, 1.0, 0, 0)
    facts = good_facts(C)
    facts = replace(facts, accuracy={**facts.accuracy, Phase.AFTER: nothing})
    assert [c.ok for c in judge(facts) if c.name.startswith("accuracy")] == [False]


def weights(at: float, decision: str, controller: int, applied: str, gateway: int) -> WeightSample:
    return WeightSample(
        at, decision, {"stable": 100 - controller, "canary": controller}, applied,
        {"stable": 100 - gateway, **({"canary": gateway} if gateway else {})},
    )  # fmt: skip


def test_a_change_on_its_way_to_the_gateway_is_no_disagreement() -> None:
    samples = [
        weights(0, "a", 0, "a", 0),
        weights(1, "b", 10, "a", 0),
        weights(2, "b", 10, "b", 10),
        weights(3, "c", 50, "b", 10),
        weights(5, "d", 60, "b", 10),
        weights(7, "d", 60, "d", 60),
    ]
    assert disagreements(samples) == 0


def test_a_decision_that_never_arrives_is_one() -> None:
    samples = [weights(second, "b", 10, "a", 0) for second in range(6)]
    assert disagreements(samples) == 3
    assert disagreements([*samples, weights(7, "b", 10, "b", 10)]) == 3


def test_the_right_decision_with_wrong_weights_is_one() -> None:
    assert disagreements([weights(second, "b", 10, "b", 20) for second in range(5)]) == 2
