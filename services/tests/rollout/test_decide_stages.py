"""Verdicts on traffic as a laptop has it: 50 requests/s, eight instances each, late labels."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.rollout import (
    Evidence,
    Policy,
    Verdict,
    VerdictKind,
    Window,
    decide,
    select,
)
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
