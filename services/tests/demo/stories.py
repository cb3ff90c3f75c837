"""Made-up runs for the tests: facts that fulfil a scenario, and a story with plausible curves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from coalmine.demo._expectations import judge
from coalmine.demo._facts import Facts, RolloutFact, RunFact, TriggerFact
from coalmine.demo._history import Event, History, ScoreSample, WeightSample
from coalmine.demo._ledger import Accuracy, Answered, Phase, TruthLedger
from coalmine.demo._options import Scenario
from coalmine.demo._spans import Span
from coalmine.demo._story import Story
from coalmine.incidents import AffectedFeature, Incident, IncidentKind

START = 1_700_000_000.0
INJECTED = START + 90.0


def accuracy(value: float) -> Accuracy:
    return Accuracy(value, value - 0.004, value + 0.004, 9000, 1100)


def incident(kind: IncidentKind, *features: str, opened: float = INJECTED + 12) -> Incident:
    affected = tuple(
        AffectedFeature(name=name, statistic="psi", score=0.5, threshold=0.1) for name in features
    )
    return Incident(
        id=f"{kind}-1", kind=kind, model_name="ev-battery", model_version="1",
        summary=f"{kind} of {', '.join(features)}", onset_at=opened - 5, opened_at=opened,
        updated_at=opened + 3, features=affected,
    )  # fmt: skip


BOOTSTRAP = RunFact(
    id="run-0", kind="bootstrap", reason="no champion", created=START + 9,
    started=START + 10, ended=START + 45,
    outcome="promoted-to-rollout", version="1",
)  # fmt: skip
FIRST = RolloutFact(
    id="ro-1", version="1", state="promoted", verdict=None, started=START + 46, ended=START + 52,
    states=("pending", "promoted"),
)  # fmt: skip
RETRAINING = RunFact(
    id="run-1", kind="retrain", reason="CoalmineAccuracyLoss", created=INJECTED + 15,
    started=INJECTED + 20, ended=INJECTED + 50,
    outcome="promoted-to-rollout", version="2",
)  # fmt: skip
SECOND = RolloutFact(
    id="ro-2", version="2", state="promoted", verdict="non_inferior", started=INJECTED + 51,
    ended=INJECTED + 90, states=("pending", "shadowing", "stepping", "promoted"),
    detail={
        "evidence": {"accuracy": {"log_e": 7.2}},
        "spans": (
            Span("shadowing", INJECTED + 51, INJECTED + 67),
            Span("stepping", INJECTED + 67, INJECTED + 88),
            Span("promoted", INJECTED + 88, INJECTED + 90),
        ),
    },
)  # fmt: skip
TRIGGER = TriggerFact(
    name="CoalmineAccuracyLoss", source="alert", fate="accepted", reason="", time=INJECTED + 15
)
STARTED = TriggerFact(name="start", source="start", fate="accepted", reason="", time=START + 9)


def good_facts(scenario: Scenario) -> Facts:
    """Facts of a run that went as it must."""
    facts = Facts(
        scenario=scenario, seed=7, requests=9000, failed_requests=0, resent_requests=0,
        labels_due=72000, labels_delivered=72000, records_emitted=90000, records_in_log=90000,
        records_dropped=0, injected_at=INJECTED,
        accuracy={
            Phase.BEFORE: accuracy(0.972), Phase.DURING: accuracy(0.968),
            Phase.AFTER: accuracy(0.970),
        },
        triggers=(STARTED,), runs=(BOOTSTRAP,), rollouts=(FIRST,),
        stable_before="1", stable_after="1",
        weights_after={"stable": 100}, weight_samples=200,
    )  # fmt: skip
    if scenario is Scenario.CHEMISTRY:
        return replace(
            facts,
            incidents=(incident("drift", "r_internal", "dv_dq"), incident("accuracy")),
            triggers=(STARTED, TRIGGER), runs=(BOOTSTRAP, RETRAINING), rollouts=(FIRST, SECOND),
            stable_after="2",
            accuracy={**facts.accuracy, Phase.DURING: accuracy(0.88)},
        )  # fmt: skip
    if scenario is Scenario.COLD:
        return replace(facts, incidents=(incident("drift", "temperature_mean"),))
    if scenario is Scenario.SENSOR_FAULT:
        thought_better = replace(
            RETRAINING,
            started=None,
            ended=INJECTED + 19,
            outcome=None,
            version=None,
            cancelled=True,
        )
        return replace(
            facts,
            incidents=(incident("data_quality", "pack_voltage_residual"), incident("accuracy")),
            triggers=(STARTED, replace(TRIGGER, fate="suppressed", reason="bad data")),
            runs=(BOOTSTRAP, thought_better),
        )
    if scenario is Scenario.BAD_CANDIDATE:
        bad = replace(SECOND, state="rolled_back", verdict="regression",
                      states=("pending", "stepping", "rolled_back"))  # fmt: skip
        return replace(facts, rollouts=(FIRST, bad), candidate="2")
    return facts


def story_of(facts: Facts, **changes: Any) -> Story:
    """A story around the facts, with curves as a real run draws them."""
    rng = np.random.default_rng(facts.seed)
    end = START + 260
    history = History(events=_events(facts))
    for second in range(60, 255):
        at = START + second
        canary = 0 if not 157 < second < 178 else (30 if second < 168 else 60)
        weights = {"stable": 100 - canary, "canary": canary}
        history.weights.append(WeightSample(at, "d", weights, "d", weights))
        if second % 2 == 0:
            lift = 6.0 if facts.incidents and 92 < second < 180 else 0.0
            for i in range(14):
                score = 0.1 * rng.gamma(2.0, 0.2) * (1 + lift * (i < 3))
                history.scores.append(ScoreSample(at, "1", f"feature_{i}", score, 0.1))
    fields: dict[str, Any] = {
        "facts": facts, "checks": judge(facts), "history": history, "started": START,
        "ended": end, "bins": _ledger(facts, rng).bins(seconds=2.0), "machine": "2 cores",
        "stages": [
            Span("start", START, START + 10), Span("train", START + 10, START + 55),
            Span(Phase.BEFORE, START + 55, INJECTED), Span("react", INJECTED, START + 180),
            Span("after", START + 180, START + 230), Span("drain", START + 230, end),
        ],
        "phases": {
            Phase.BEFORE: Span("before", START + 55, INJECTED),
            Phase.DURING: Span("during", INJECTED, START + 180),
            Phase.AFTER: Span("after", START + 180, START + 230),
        },
        "versions": [
            {"version": "1", "fate": "champion until 178 s", "arms": ["stable"], "requests": 5000,
             "first_answer": START + 56, "last_answer": START + 178, "accuracy": 0.94,
             "digest": "sha256:0123456789abcdef"},
            {"version": "2", "fate": "registered", "arms": [], "requests": 0, "digest": None},
        ],
    }  # fmt: skip
    return Story(**{**fields, **changes})


def _events(facts: Facts) -> list[Event]:
    events = [Event(INJECTED, "demo", f"{facts.scenario} begins")]
    events += [Event(i.opened_at, "monitor", i.summary, i.evidence) for i in facts.incidents]
    for rollout in facts.rollouts:
        evidence = {"verdict": rollout.verdict, "accuracy": {"log_e": 7.25, "pairs": 812}}
        events.append(Event(rollout.ended or 0.0, "rollout", f"{rollout.state} <b>", evidence))
    events.append(Event(START + 40, "pipeline", "evaluated", {"accuracy": 0.9731, "trials": 8}))
    return events


def _ledger(facts: Facts, rng: np.random.Generator) -> TruthLedger:
    ledger = TruthLedger(classes=("normal", "fault"))
    for number in range(175 * 20):
        second = 55 + number / 20
        during = 90 <= second < 180
        phase = Phase.BEFORE if second < 90 else Phase.DURING if during else Phase.AFTER
        new = second >= 180 or (157 < second < 178 and number % 2 == 0)
        version = "2" if new and facts.stable_after == "2" else "1"
        share = facts.accuracy[phase].value + (0.06 if during and version == "2" else 0.0)
        predicted = (rng.random(8) > min(share, 0.98)).astype(np.int64)
        ledger.answered(
            Answered(f"r{number}", START + second, phase, "v2", "stable", version,
                     np.zeros(8, np.int64), predicted),
            label_due=[0.0] * 8,
        )  # fmt: skip
    return ledger
