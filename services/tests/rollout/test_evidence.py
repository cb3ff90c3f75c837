"""Which measurements count as evidence, and which do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coalmine.arms import Arm
from coalmine.rollout import (
    Evidence,
    EvidenceUnavailable,
    Measured,
    MeasuredBlock,
    Policy,
    Window,
    decide,
    parse_measured,
    select,
)
from coalmine.rollout._measured import MeasuredCallers

from .worlds import CANDIDATE, STABLE, World

WINDOW = Window(arm=Arm.CANARY, opened_at=10.0, closed_at=20.0)


def block(time: float, arm: str, version: str, **changes: Any) -> MeasuredBlock:
    counts: dict[str, Any] = {
        "requests": 10, "errors": 0, "latency_counts": (9, 1, 0), "instances": 20,
        "labelled": 20, "correct": 19,
    }  # fmt: skip
    return MeasuredBlock(time=time, arm=arm, version=version, **{**counts, **changes})


def times(*blocks: MeasuredBlock, evaluated_to: float = 100.0) -> list[float]:
    measured = Measured(evaluated_to=evaluated_to, latency_edges_us=(1000.0, 2000.0), blocks=blocks)
    evidence = select(measured, windows=(WINDOW,), candidate=CANDIDATE, stable=STABLE, block_s=1.0)
    return [each.time for each in evidence.blocks]


def both(time: float, **changes: Any) -> tuple[MeasuredBlock, MeasuredBlock]:
    return block(time, "stable", STABLE), block(time, "canary", CANDIDATE, **changes)


def test_only_blocks_wholly_inside_a_window_count() -> None:
    assert times(*both(9.0), *both(9.5), *both(10.0), *both(19.0), *both(19.5)) == [10.0, 19.0]


def test_a_block_that_is_not_over_does_not_count() -> None:
    assert times(*both(12.0), *both(13.0), evaluated_to=13.9) == [12.0]


def test_both_arms_must_have_had_requests() -> None:
    nothing = {"requests": 0, "latency_counts": (0, 0, 0), "instances": 0}
    alone = block(14.0, "canary", CANDIDATE)
    assert times(*both(12.0, **nothing, labelled=0, correct=0), alone) == []


@pytest.mark.parametrize(
    ("arm", "version"), [("canary", STABLE), ("shadow", CANDIDATE), ("canary", "5")]
)
def test_another_version_or_arm_is_no_evidence(arm: str, version: str) -> None:
    assert times(block(12.0, "stable", STABLE), block(12.0, arm, version)) == []


def test_stable_of_another_version_is_no_comparison() -> None:
    assert times(block(12.0, "stable", "2"), block(12.0, "canary", CANDIDATE)) == []


def evidence_of(*blocks: MeasuredBlock, window: Window = WINDOW) -> Evidence:
    measured = Measured(evaluated_to=50.0, latency_edges_us=(1000.0, 2000.0, 4000.0), blocks=blocks)
    return select(measured, windows=(window,), candidate=CANDIDATE, stable=STABLE, block_s=1.0)


FIRST = block(11.0, "stable", STABLE, requests=300, latency_counts=(180, 110, 9, 1))


def test_slow_is_what_stable_is_seldom_and_its_tail_what_it_hardly_ever_is() -> None:
    later = {"latency_counts": (2, 3, 4, 1)}
    found = evidence_of(FIRST, *both(11.0, **later)[1:], *both(12.0, **later)[1:],
                        block(12.0, "stable", STABLE, latency_counts=(5, 3, 1, 1)))  # fmt: skip
    assert (found.slow_edge_us, found.tail_edge_us) == (2000.0, 4000.0)
    assert [(b.candidate.slow, b.candidate.tail) for b in found.blocks] == [(None, None), (5, 1)]
    assert (found.blocks[1].stable.slow, found.blocks[1].stable.tail) == (2, 1)


def test_before_stable_had_enough_requests_nothing_is_known_of_slow_ones() -> None:
    few = block(11.0, "stable", STABLE, requests=299, latency_counts=(290, 9, 0, 0))
    found = evidence_of(few, block(11.0, "canary", CANDIDATE, latency_counts=(2, 3, 5, 0)))
    assert found.slow_edge_us is None
    assert found.blocks[0].candidate.slow is None


def test_latency_beyond_all_edges_tells_no_slow_from_slower() -> None:
    stable = block(12.0, "stable", STABLE, requests=300, latency_counts=(0, 0, 0, 300))
    canary = block(12.0, "canary", CANDIDATE, latency_counts=(9, 1, 0, 0))
    assert evidence_of(stable, canary).slow_edge_us is None


def test_beside_a_baseline_stable_itself_is_no_comparison() -> None:
    window = WINDOW.model_copy(
        update={"weights": {Arm.STABLE: 80, Arm.CANARY: 10, Arm.BASELINE: 10}}
    )
    counts = {"latency_counts": (9, 1, 0, 0)}
    canary = block(12.0, "canary", CANDIDATE, **counts)
    stable = block(12.0, "stable", STABLE, requests=80, **counts)
    assert evidence_of(stable, canary, window=window).blocks == ()
    beside = block(12.0, "baseline", STABLE, requests=11, **counts)
    found = evidence_of(stable, canary, beside, window=window)
    assert found.blocks[0].reference is Arm.BASELINE
    assert found.blocks[0].stable.requests == 11
    assert found.splits[0].requests == {Arm.STABLE: 80, Arm.CANARY: 10, Arm.BASELINE: 11}


def test_a_split_is_counted_where_an_arm_had_no_request_too() -> None:
    window = WINDOW.model_copy(update={"weights": {Arm.STABLE: 90, Arm.CANARY: 10}})
    counts = {"latency_counts": (9, 1, 0, 0)}
    alone = [block(t, "stable", STABLE, requests=50, **counts) for t in (12.0, 13.0)]
    assert evidence_of(*alone, window=window).splits == ()  # Nothing is known of the canary.
    found = evidence_of(*alone, block(13.0, "canary", CANDIDATE, **counts), window=window)
    assert found.splits[0].requests == {Arm.STABLE: 100, Arm.CANARY: 10}


def test_callers_are_those_of_the_arms_that_are_compared_or_unknown() -> None:
    def sums(arm: str, version: str) -> MeasuredCallers:
        return MeasuredCallers(
            version=version, arm=arm, callers=5, requests=10, errors=1, requests_squared=20,
            requests_errors=2, errors_squared=1,
        )  # fmt: skip

    def found(*callers: MeasuredCallers) -> set[Arm] | None:
        measured = Measured(
            evaluated_to=50.0, latency_edges_us=(1000.0, 2000.0), blocks=both(12.0), callers=callers
        )
        evidence = select(
            measured, windows=(WINDOW,), candidate=CANDIDATE, stable=STABLE, block_s=1.0
        )
        return None if evidence.callers is None else set(evidence.callers)

    stable, canary = sums("stable", STABLE), sums("canary", CANDIDATE)
    assert found(stable, canary, sums("canary", "9"), sums("x", STABLE)) == {
        Arm.STABLE,
        Arm.CANARY,
    }
    assert found(stable) is None
    assert found(stable, sums("canary", "9")) is None
    assert found() is None


def test_what_a_source_cannot_measure_is_none_and_not_zero() -> None:
    unknown: dict[str, Any] = {"errors": None, "latency_counts": None, "instances": None}
    found = evidence_of(
        block(12.0, "stable", STABLE, **unknown), block(12.0, "canary", CANDIDATE, **unknown)
    )
    assert (found.blocks[0].candidate.errors, found.blocks[0].candidate.slow) == (None, None)
    assert (found.slow_edge_us, found.request_size) == (None, None)
    verdict = decide(found, Policy())
    assert verdict.kind == "insufficient_evidence"
    assert "error_rate (requests): no data" in verdict.reasons


def test_the_size_of_requests_is_seen_and_may_be_unknown() -> None:
    world = World(seed=1, instances=8)
    world.run(5, shadow=True)
    window = Window(arm=Arm.SHADOW, opened_at=0.0)
    measured = world.measured()

    def size(of: Measured) -> float | None:
        return select(
            of, windows=(window,), candidate=CANDIDATE, stable=STABLE, block_s=1.0
        ).request_size

    assert size(measured) == 8.0
    silent = tuple(b.model_copy(update={"instances": None}) for b in measured.blocks)
    assert size(measured.model_copy(update={"blocks": silent})) is None


GOOD: dict[str, Any] = {
    "evaluated_to": 12.0,
    "latency_edges_us": [1000.0],
    "blocks": [
        {"time": 1.0, "version": "3", "arm": "stable", "requests": 3, "errors": 0,
         "latency_counts": [3, 0], "labelled": 1, "correct": 1}
    ],
    "pairs": [],
    "label_coverage": 0.3,
}  # fmt: skip


def test_an_answer_as_agreed_is_read() -> None:
    assert parse_measured(json.dumps(GOOD).encode()).blocks[0].requests == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>502</html>",
        b"[]",
        b'{"evaluated_to": NaN, "latency_edges_us": [], "blocks": []}',
        json.dumps({**GOOD, "blocks": [{**GOOD["blocks"][0], "errors": 4}]}).encode(),
        json.dumps({**GOOD, "blocks": [{**GOOD["blocks"][0], "requests": -1}]}).encode(),
        json.dumps({**GOOD, "blocks": [{**GOOD["blocks"][0], "correct": 2}]}).encode(),
        json.dumps({**GOOD, "latency_edges_us": [1.0, 2.0]}).encode(),
        json.dumps({**GOOD, "blocks": [{**GOOD["blocks"][0], "predictions": [1]}]}).encode(),
    ],
)
def test_an_answer_that_makes_no_sense_is_no_evidence(content: bytes) -> None:
    with pytest.raises(EvidenceUnavailable, match="not the evidence that was agreed"):
        parse_measured(content)
