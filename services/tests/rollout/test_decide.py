"""What promotes nothing, and what is a regression, where all else is well."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.rollout import (
    Policy,
    VerdictKind,
    decide,
)

from .evidence_made import ALL, SPLIT, good


def test_all_well_and_enough_of_it_is_promoted() -> None:
    assert decide(good(), ALL).kind == "non_inferior"


@pytest.mark.parametrize("metric", ALL.guarded)
def test_a_guarded_metric_that_nobody_measured_promotes_nothing(metric: str) -> None:
    silent = {
        "error_rate": {"errors": None},
        "slow_rate": {"slow": None},
        "tail_rate": {"tail": None},
        "accuracy": {"labelled": 0, "correct": 0},
        "prediction_drift": {"predictions": None},
    }[metric]
    blocks = tuple(
        b.model_copy(
            update={
                "candidate": b.candidate.model_copy(update=silent),
                "stable": b.stable.model_copy(update=silent),
            }
        )
        for b in good().blocks
    )
    pairs = () if metric == "accuracy" else good().pairs
    verdict = decide(good(blocks=blocks, pairs=pairs), ALL)
    assert verdict.kind == "insufficient_evidence"
    assert all(reason.startswith(metric) and "no data" in reason for reason in verdict.reasons)
    unguarded = ALL.model_copy(update={"guards": ALL.guards.model_copy(update={metric: None})})
    assert decide(good(blocks=blocks, pairs=pairs), unguarded).kind == "non_inferior"


def test_nothing_guarded_or_a_need_without_a_margin_promotes_nothing() -> None:
    assert decide(good(), Policy(needs=())).kind == "insufficient_evidence"
    verdict = decide(good(), Policy(needs=("prediction_drift",)))
    assert verdict.reasons == ("prediction_drift: has no margin in rollout.guards",)


def test_arms_that_did_not_get_their_shares_promote_nothing_and_are_no_regression() -> None:
    off = SPLIT.model_copy(update={"requests": {Arm.STABLE: 700, Arm.CANARY: 300}})
    verdict = decide(good(splits=(off,)), ALL)
    assert verdict.kind == "insufficient_evidence"
    assert "canary had 30.00% of the requests where the weights say 10.00%" in verdict.reasons[0]
    assert not any(guard.regression for guard in verdict.guards)


def test_answers_that_shift_beyond_the_margin_are_a_regression_and_within_it_none() -> None:
    def shifted(first: int) -> VerdictKind:
        blocks = tuple(
            b.model_copy(
                update={
                    "candidate": b.candidate.model_copy(
                        update={"predictions": (first, 300 - first)}
                    )
                }
            )
            for b in good().blocks
        )
        return decide(good(blocks=blocks), ALL).kind

    assert [shifted(first) for first in (200, 206, 260)] == [
        "non_inferior",
        "non_inferior",
        "regression",
    ]
