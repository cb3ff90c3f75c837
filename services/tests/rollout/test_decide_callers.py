"""Verdicts where callers stick to an arm: what of it is one draw, and what few of them tell."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.rollout import (
    ArmCounts,
    Block,
    Callers,
    VerdictKind,
    decide,
)
from coalmine.rollout._callers import caller_effect

from .evidence_made import ALL, SPLIT, good


def test_the_shares_of_sticky_callers_are_counted_by_caller() -> None:
    off = SPLIT.model_copy(update={"requests": {Arm.STABLE: 700, Arm.CANARY: 300}})
    unknown = decide(good(splits=(off,), sticky=True), ALL)
    assert (unknown.kind, unknown.split) == ("non_inferior", None)
    few = off.model_copy(update={"callers": {Arm.STABLE: 9, Arm.CANARY: 2}})
    assert decide(good(splits=(few,), sticky=True), ALL).kind == "non_inferior"
    many = off.model_copy(update={"callers": {Arm.STABLE: 700, Arm.CANARY: 300}})
    assert decide(good(splits=(many,), sticky=True), ALL).kind == "insufficient_evidence"


@pytest.mark.parametrize(
    ("per_caller", "kind"), [(1, "insufficient_evidence"), (70, "non_inferior")]
)
def test_requests_of_one_caller_are_one_draw(per_caller: int, kind: VerdictKind) -> None:
    off = SPLIT.model_copy(update={"requests": {Arm.STABLE: 700, Arm.CANARY: 300}})

    def callers(requests: int) -> Callers:
        return Callers(
            callers=requests // per_caller, requests=requests, errors=0,
            requests_squared=requests * per_caller, requests_errors=0, errors_squared=0,
        )  # fmt: skip

    known = {Arm.STABLE: callers(70_000), Arm.CANARY: callers(30_000)}
    assert decide(good(splits=(off,), sticky=True, callers=known), ALL).kind == kind


def test_of_few_callers_less_is_known() -> None:
    def effect(callers: int) -> float:
        """A fifth of the callers makes all errors, of 30 requests each."""
        odd = callers // 5
        sums = Callers(
            callers=callers, requests=30 * callers, errors=3 * odd,
            requests_squared=900 * callers, requests_errors=90 * odd, errors_squared=9 * odd,
        )  # fmt: skip
        return caller_effect({Arm.CANARY: sums, Arm.STABLE: sums})

    assert effect(1) == 30.0, "all requests of the one caller are one"
    assert 30.0 >= effect(5) > effect(20) > effect(100) > effect(10_000) > 1.0
    assert effect(10_000) == pytest.approx(effect(1_000_000), rel=0.05)
    alone = Callers(
        callers=900, requests=900, errors=5, requests_squared=900, requests_errors=5,
        errors_squared=5,
    )  # fmt: skip
    assert caller_effect({Arm.CANARY: alone, Arm.STABLE: alone}) == 1.0


def test_few_callers_of_the_canary_take_nothing_from_what_the_shadow_showed() -> None:
    def shown(callers: int) -> float:
        sums = Callers(
            callers=callers, requests=30 * callers, errors=0, requests_squared=900 * callers,
            requests_errors=0, errors_squared=0,
        )  # fmt: skip
        known = {Arm.SHADOW: sums, Arm.STABLE: sums, Arm.CANARY: sums}
        counts = ArmCounts(requests=300, errors=0, slow=None)
        blocks = tuple(
            Block(time=60.0 * i, arm=Arm.SHADOW, age=60.0, candidate=counts, stable=counts)
            for i in range(10)
        )
        verdict = decide(good(blocks=blocks, callers=known), ALL)
        return next(g.log_e_within for g in verdict.guards if g.metric == "error_rate")

    assert shown(3) == shown(10_000) > 5.0


def test_one_caller_who_fails_always_is_no_regression() -> None:
    counts = ArmCounts(requests=300, errors=20, slow=12, tail=2)
    fine = counts.model_copy(update={"errors": 0})
    blocks = tuple(
        Block(time=60.0 * i, arm=Arm.CANARY, age=60.0, candidate=counts, stable=fine)
        for i in range(10)
    )

    def callers(errors: int) -> Callers:
        """Of 100 callers with 30 requests each; those of one of them all fail 20 times a block."""
        return Callers(
            callers=100,
            requests=3000,
            errors=errors,
            requests_squared=99 * 900 // 30 * 30 + 40_000,
            requests_errors=errors * 200,
            errors_squared=errors**2,
        )

    evidence = good(blocks=blocks, callers={Arm.CANARY: callers(200), Arm.STABLE: callers(0)})
    assert decide(evidence.model_copy(update={"callers": None}), ALL).kind == "regression"
    assert decide(evidence, ALL).kind != "regression"
