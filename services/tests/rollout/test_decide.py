"""Verdicts on traffic as a laptop has it: 50 requests/s, eight instances each, late labels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalmine.arms import Arm
from coalmine.rollout import (
    ArmCounts,
    Block,
    Callers,
    Evidence,
    PairBlock,
    Policy,
    Split,
    Verdict,
    VerdictKind,
    Window,
    decide,
    select,
)
from coalmine.rollout._callers import caller_effect
from coalmine.spec import GuardsSpec

from .worlds import CANDIDATE, STABLE, World

#: As the reference application has it, whose arms share the cores of a laptop.
GUARDS = GuardsSpec(tail_rate=None)
SHADOW = Policy(guards=GUARDS, needs=("accuracy",), min_seconds=8.0)
FIRST_STEP = Policy(guards=GUARDS, exposure=0.5, min_seconds=8.0)
LAST_STEP = Policy(guards=GUARDS, min_seconds=8.0)


class Rollout:
    """A candidate's way through a world, judged every second."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.windows: list[Window] = []
        world.run(3)

    def stage(
        self, policy: Policy, *, limit: int, canary: float = 0.0
    ) -> tuple[int, VerdictKind, Verdict]:
        """Until there is a verdict: after how many seconds, and which."""
        arm = Arm.CANARY if canary else Arm.SHADOW
        self.windows.append(Window(arm=arm, opened_at=self.world.now))
        begin = self.world.now
        while self.world.now < begin + limit:
            self.world.run(1, canary=canary, shadow=not canary)
            verdict = decide(self.evidence(), policy)
            if verdict.kind != "insufficient_evidence":
                break
        closed = {"closed_at": float(self.world.now)}
        self.windows[-1] = self.windows[-1].model_copy(update=closed)
        return self.world.now - begin, verdict.kind, verdict

    def evidence(self) -> Evidence:
        return select(
            self.world.measured(),
            windows=self.windows,
            candidate=CANDIDATE,
            stable=STABLE,
            block_s=1.0,
        )


@pytest.mark.parametrize("seed", range(3))
def test_a_much_better_candidate_passes_each_stage_quickly(seed: int) -> None:
    rollout = Rollout(World(seed, accuracy=(0.6, 0.95)))
    assert rollout.stage(SHADOW, limit=15)[1] == "non_inferior"
    assert rollout.stage(FIRST_STEP, limit=25, canary=0.1)[1] == "non_inferior"
    assert rollout.stage(LAST_STEP, limit=25, canary=0.5)[1] == "non_inferior"


@pytest.mark.parametrize("seed", range(3))
def test_an_equal_candidate_passes_when_the_evidence_suffices(seed: int) -> None:
    rollout = Rollout(World(seed, errors=(0.002, 0.002)))
    assert rollout.stage(SHADOW, limit=60)[1] == "non_inferior"
    assert rollout.stage(FIRST_STEP, limit=30, canary=0.1)[1] == "non_inferior"
    assert rollout.stage(LAST_STEP, limit=30, canary=0.5)[1] == "non_inferior"


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_candidate_is_a_regression_within_seconds_in_the_shadow(seed: int) -> None:
    seconds, kind, _ = Rollout(World(seed, accuracy=(0.95, 0.3))).stage(SHADOW, limit=15)
    assert (kind, seconds <= 10) == ("regression", True)


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_candidate_is_a_regression_within_seconds_on_the_canary(seed: int) -> None:
    rollout = Rollout(World(seed, accuracy=(0.95, 0.3)))
    seconds, kind, verdict = rollout.stage(FIRST_STEP, limit=30, canary=0.1)
    assert (kind, seconds <= 15) == ("regression", True)
    assert "accuracy (labels)" in verdict.reasons[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_new_arm_that_warms_up_is_no_regression(seed: int) -> None:
    rollout = Rollout(World(seed, accuracy=(0.6, 0.95), warm_up=3.0))
    assert rollout.stage(SHADOW, limit=15)[1] == "non_inferior"
    assert rollout.stage(FIRST_STEP, limit=30, canary=0.1)[1] == "non_inferior"


def test_a_candidate_that_is_slow_is_a_regression() -> None:
    rollout = Rollout(World(1, slower=3.0))
    assert rollout.stage(FIRST_STEP, limit=40, canary=0.1)[1] == "regression"


@pytest.mark.parametrize("seed", range(5))
def test_an_incident_that_hits_both_arms_is_no_regression(seed: int) -> None:
    rollout = Rollout(World(seed, errors=(0.005, 0.005), incident=(20, 50, 20.0)))
    assert rollout.stage(Policy(min_seconds=1e9), limit=80, canary=0.5)[1] != "regression"


def test_no_data_is_insufficient_whatever_is_asked() -> None:
    nothing = Evidence(
        evaluated_to=0.0,
        stage_seconds=1e6,
        slow_edge_us=None,
        request_size=None,
        blocks=(),
        pairs=(),
    )
    verdict = decide(nothing, Policy(exposure=0.01))
    assert verdict.kind == "insufficient_evidence"
    assert verdict.reasons[0] == "error_rate (requests): no data"
    assert all(guard.loss is None for guard in verdict.guards)


def test_a_stage_lasts_its_minimum_however_strong_the_evidence() -> None:
    rollout = Rollout(World(1, accuracy=(0.3, 0.95)))
    seconds, kind, _ = rollout.stage(Policy(needs=("accuracy",), min_seconds=30.0), limit=60)
    assert (kind, seconds) == ("non_inferior", 31)


def test_where_requests_have_an_unknown_size_a_block_counts_as_one() -> None:
    rollout = Rollout(World(1, accuracy=(0.95, 0.3)))
    rollout.stage(Policy(min_seconds=1e9), limit=5)
    known = rollout.evidence()
    unknown = known.model_copy(update={"request_size": None})

    def strength(evidence: Evidence) -> float:
        pairs = next(g for g in decide(evidence, SHADOW).guards if g.source == "pairs")
        return pairs.log_e_worse

    assert strength(unknown) < strength(known) / 5


def counts(draw: Any) -> ArmCounts:
    requests = draw(st.integers(0, 200))
    labelled = draw(st.integers(0, 1000))
    return ArmCounts(
        requests=requests,
        errors=draw(st.integers(0, requests)),
        slow=draw(st.integers(0, requests)),
        tail=draw(st.none() | st.integers(0, requests)),
        labelled=labelled,
        correct=draw(st.integers(0, labelled)),
        predictions=draw(st.none() | st.tuples(*[st.integers(0, 50)] * 3)),
    )


@st.composite
def evidences(draw: Any) -> Evidence:
    seconds = range(draw(st.integers(0, 12)))
    arm = draw(st.sampled_from([Arm.SHADOW, Arm.CANARY]))
    return Evidence(
        evaluated_to=20.0,
        stage_seconds=draw(st.floats(0, 100)),
        slow_edge_us=draw(st.sampled_from([None, 1000.0])),
        request_size=draw(st.sampled_from([None, 1.0, 8.0])),
        blocks=tuple(
            Block(time=s, arm=arm, age=s, candidate=counts(draw), stable=counts(draw))
            for s in seconds
            if draw(st.booleans())
        ),
        pairs=tuple(
            PairBlock(
                time=s,
                won=draw(st.integers(0, 500)),
                lost=draw(st.integers(0, 500)),
                even=draw(st.integers(0, 500)),
            )
            for s in seconds
            if draw(st.booleans())
        ),
    )


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


SPLIT = Split(weights={Arm.STABLE: 90, Arm.CANARY: 10}, requests={Arm.STABLE: 900, Arm.CANARY: 100})


def good(**changes: Any) -> Evidence:
    """Enough of everything, and all well."""
    each = {"requests": 300, "errors": 0, "slow": 12, "tail": 2, "labelled": 300, "correct": 290}
    counts = ArmCounts(**each, predictions=(200, 100))
    block = Block(time=0.0, arm=Arm.CANARY, age=60.0, candidate=counts, stable=counts)
    whole = {
        "evaluated_to": 3600.0, "stage_seconds": 3600.0, "slow_edge_us": 1e3, "tail_edge_us": 2e3,
        "request_size": 1.0, "prediction_names": ("a", "b"), "splits": (SPLIT,),
        "blocks": tuple(block.model_copy(update={"time": 60.0 * i}) for i in range(60)),
        "pairs": (PairBlock(time=0.0, won=40, lost=40, even=4000),),
    }  # fmt: skip
    return Evidence(**{**whole, **changes})


ALL = Policy(guards=GuardsSpec(prediction_drift=0.1), significance=0.05)


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
