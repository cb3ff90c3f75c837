"""What holds of the verdict on any evidence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalmine.rollout import (
    ArmCounts,
    Evidence,
    Policy,
    Verdict,
    decide,
)

from .evidence_made import ALL, evidences

METRICS = Policy().guarded


@settings(max_examples=150, deadline=None)
@given(evidences(), st.floats(0.01, 1.0), st.floats(0, 50))
def test_any_evidence_has_a_verdict_that_says_why(
    evidence: Evidence, exposure: float, min_seconds: float
) -> None:
    policy = Policy(exposure=exposure, min_seconds=min_seconds)
    verdict = decide(evidence, policy)
    assert verdict == decide(evidence, policy)
    assert verdict == Verdict.model_validate_json(verdict.model_dump_json())
    assert verdict.reasons
    if verdict.kind == "non_inferior":
        assert {g.metric for g in verdict.guards if g.non_inferior} == set(METRICS)
        assert evidence.stage_seconds >= min_seconds
        assert any(b.candidate.tail is not None for b in evidence.blocks)
    if verdict.kind == "regression":
        assert any(g.loss is not None and g.loss > 0 for g in verdict.guards)


@settings(max_examples=60, deadline=None)
@given(evidences())
def test_a_regression_is_one_at_any_exposure(evidence: Evidence) -> None:
    narrow = decide(evidence, Policy(exposure=0.1))
    wide = decide(evidence, Policy(exposure=1.0))
    assert (wide.kind == "regression") == (narrow.kind == "regression")


@settings(max_examples=40, deadline=None)
@given(evidences(), st.integers(1, 30))
def test_more_errors_of_the_candidate_never_speak_for_it(evidence: Evidence, more: int) -> None:
    def failing(counts: ArmCounts) -> ArmCounts:
        errors = min(counts.requests, (counts.errors or 0) + more)
        return counts.model_copy(update={"errors": errors})

    worse = tuple(b.model_copy(update={"candidate": failing(b.candidate)}) for b in evidence.blocks)
    before, after = (
        decide(each, Policy()).guards[0]
        for each in (evidence, evidence.model_copy(update={"blocks": worse}))
    )
    assert after.log_e_worse >= before.log_e_worse - 1e-9
    assert not before.regression or after.regression


@settings(max_examples=40, deadline=None)
@given(evidences(), st.randoms(use_true_random=False))
def test_the_names_and_the_order_of_classes_do_not_matter(evidence: Evidence, random: Any) -> None:
    order = [0, 1, 2]
    random.shuffle(order)

    def renamed(counts: ArmCounts) -> ArmCounts:
        found = counts.predictions
        return counts.model_copy(
            update={"predictions": None if found is None else tuple(found[i] for i in order)}
        )

    blocks = tuple(
        b.model_copy(update={"candidate": renamed(b.candidate), "stable": renamed(b.stable)})
        for b in evidence.blocks
    )
    before, after = (
        next(g for g in decide(e, ALL).guards if g.metric == "prediction_drift")
        for e in (evidence, evidence.model_copy(update={"blocks": blocks}))
    )
    assert before.log_e_worse == pytest.approx(after.log_e_worse)
    assert before.log_e_within == pytest.approx(after.log_e_within)


@settings(max_examples=40, deadline=None)
@given(evidences(), st.permutations(ALL.guarded))
def test_the_order_of_the_metrics_does_not_matter(evidence: Evidence, needs: Any) -> None:
    verdict = decide(evidence, ALL)
    assert verdict == decide(evidence, ALL.model_copy(update={"needs": None}))
    named = decide(evidence, ALL.model_copy(update={"needs": tuple(needs)}))
    assert (named.kind, set(named.reasons)) == (verdict.kind, set(verdict.reasons))
