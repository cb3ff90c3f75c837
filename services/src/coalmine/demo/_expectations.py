"""What must be true at the end of each scenario: pure functions of the facts.

Every check states what it found, so that a failing run says why without anybody opening a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coalmine.demo._facts import PROMOTED, Facts, RolloutFact
from coalmine.demo._ledger import Phase
from coalmine.demo._options import Scenario
from coalmine.incidents import Incident

__all__ = ["ACCURACY_MARGIN", "FAULTY_FEATURE", "Check", "judge"]

#: Accuracy counts as held or recovered within this of what it was before.
ACCURACY_MARGIN = 0.02
#: The redundant-sensor difference that the scenario `sensor-fault` moves.
FAULTY_FEATURE = "pack_voltage_residual"

_STAGES = ("shadowing", "stepping")


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation, and what was found."""

    name: str
    ok: bool
    found: str


def judge(facts: Facts) -> tuple[Check, ...]:
    """Every check of the run: the scenario's own first, then those of all scenarios."""
    own = _SCENARIOS[facts.scenario](facts)
    return (_finished(facts), *own, *_universal(facts))


def _finished(facts: Facts) -> Check:
    return Check("the run went to its end", facts.problem is None, facts.problem or "yes")


def _universal(facts: Facts) -> tuple[Check, ...]:
    balance = facts.records_in_log + facts.records_dropped
    early = [i for i in facts.incidents if i not in facts.incidents_since_injection()]
    return (
        Check(
            "every request was answered",
            facts.requests > 0 and facts.failed_requests == 0,
            f"{facts.failed_requests} of {facts.requests} failed",
        ),
        Check(
            "every record reached the log",
            balance == facts.records_emitted > 0 and facts.records_dropped == 0,
            f"{facts.records_emitted} emitted, {facts.records_in_log} in the log, "
            f"{facts.records_dropped} dropped",
        ),
        Check(
            "every label was delivered",
            facts.labels_due == facts.labels_delivered > 0,
            f"{facts.labels_delivered} of {facts.labels_due}",
        ),
        Check(
            "the gateway's weights are the controller's",
            facts.weight_samples > 0 and facts.weight_mismatches == 0,
            f"{facts.weight_mismatches} of {facts.weight_samples} samples disagree",
        ),
        Check("nothing was alarmed before anything had happened", not early, _named(early)),
    )


def _chemistry(facts: Facts) -> tuple[Check, ...]:
    run = next((r for r in facts.retraining_runs() if r.outcome == PROMOTED), None)
    rollout = None if run is None else _rollout_of(facts, run.version)
    return (
        _incident(facts, kinds=("drift", "accuracy"), name="the drift was detected"),
        Check(
            "an alert reached the retrainer",
            bool(facts.alerts()),
            _fates(facts),
        ),
        Check(
            "retraining made a better model",
            run is not None,
            _runs(facts),
        ),
        Check(
            "the new model went through shadow and canary",
            rollout is not None and all(stage in rollout.states for stage in _STAGES),
            "no rollout" if rollout is None else " → ".join(rollout.states),
        ),
        Check(
            "the new model was promoted",
            rollout is not None
            and rollout.state == "promoted"
            and facts.stable_after == rollout.version != facts.stable_before,
            f"stable was {facts.stable_before}, is {facts.stable_after}; "
            f"{'no rollout' if rollout is None else rollout.state}",
        ),
        _accuracy_after(facts, name="accuracy recovered"),
    )


def _cold(facts: Facts) -> tuple[Check, ...]:
    promoted = [r.version for r in facts.rollouts if r.state == "promoted"]
    return (
        _incident(facts, kinds=("drift",), name="the drift was reported"),
        Check(
            "no other model was promoted",
            promoted in ([], [facts.stable_before]) and _untouched(facts),
            f"promoted: {', '.join(promoted) or 'none'}; stable is {facts.stable_after}",
        ),
        _accuracy_after(facts, name="accuracy held"),
    )


def _sensor_fault(facts: Facts) -> tuple[Check, ...]:
    faults = [i for i in facts.incidents_since_injection() if i.kind == "data_quality"]
    named = [i for i in faults if any(f.name == FAULTY_FEATURE for f in i.features)]
    return (
        Check(f"a data fault names {FAULTY_FEATURE}", bool(named), _named(faults)),
        _no_retraining(facts),
        _stable_untouched(facts),
    )


def _bad_candidate(facts: Facts) -> tuple[Check, ...]:
    rollout = _rollout_of(facts, facts.candidate)
    found = "no rollout" if rollout is None else f"{rollout.state}, {rollout.verdict}"
    return (
        Check(
            "the canary was judged a regression",
            rollout is not None and rollout.verdict == "regression",
            found,
        ),
        Check(
            "it was rolled back",
            rollout is not None and rollout.state == "rolled_back",
            found,
        ),
        _stable_untouched(facts),
        Check(
            "all traffic is back on stable",
            {arm: w for arm, w in facts.weights_after.items() if w} == {"stable": 100},
            ", ".join(f"{arm} {w} %" for arm, w in facts.weights_after.items()) or "unknown",
        ),
        _accuracy_after(facts, name="accuracy is what it was"),
    )


def _none(facts: Facts) -> tuple[Check, ...]:
    return (
        Check("no alarm", not facts.incidents, _named(list(facts.incidents))),
        Check(
            "no alert",
            not facts.alerts(),
            _fates(facts),
        ),
        _no_retraining(facts),
        _stable_untouched(facts),
        _accuracy_after(facts, name="accuracy held"),
    )


_SCENARIOS: Mapping[Scenario, Callable[[Facts], tuple[Check, ...]]] = {
    Scenario.CHEMISTRY: _chemistry,
    Scenario.COLD: _cold,
    Scenario.SENSOR_FAULT: _sensor_fault,
    Scenario.BAD_CANDIDATE: _bad_candidate,
    Scenario.NONE: _none,
}


def _incident(facts: Facts, *, kinds: tuple[str, ...], name: str) -> Check:
    found = [i for i in facts.incidents_since_injection() if i.kind in kinds]
    return Check(name, bool(found), _named(found))


def _no_retraining(facts: Facts) -> Check:
    return Check("nothing was retrained", not facts.retraining_runs(), _runs(facts))


def _untouched(facts: Facts) -> bool:
    return facts.stable_before is not None and facts.stable_after == facts.stable_before


def _stable_untouched(facts: Facts) -> Check:
    return Check(
        "the stable model was not touched",
        _untouched(facts),
        f"was {facts.stable_before}, is {facts.stable_after}",
    )


def _accuracy_after(facts: Facts, *, name: str) -> Check:
    before, after = facts.accuracy[Phase.BEFORE], facts.accuracy[Phase.AFTER]
    return Check(
        f"{name} to within {ACCURACY_MARGIN * 100:.0f} points",
        # Written so that a phase without answers (nan) fails.
        after.value >= before.value - ACCURACY_MARGIN,
        f"before {before.value:.2%}, after {after.value:.2%}",
    )


def _rollout_of(facts: Facts, version: str | None) -> RolloutFact | None:
    return next((r for r in facts.rollouts if version is not None and r.version == version), None)


def _fates(facts: Facts) -> str:
    return ", ".join(f"{alert.name}: {alert.fate}" for alert in facts.alerts()[:4]) or "none"


def _runs(facts: Facts) -> str:
    runs = facts.retraining_runs()
    return ", ".join(f"{r.reason}: {r.outcome or 'under way'}" for r in runs) or "no run"


def _named(incidents: list[Incident]) -> str:
    return "; ".join(f"{i.alertname}: {i.summary}" for i in incidents[:4]) or "none"
