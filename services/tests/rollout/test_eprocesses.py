"""What makes an e-value one: its expectation is at most one under its null, computed exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coalmine.rollout.eprocesses import (
    TwoArms,
    log_e_candidate_better,
    log_e_candidate_worse,
    log_e_mean_positive,
    log_e_more_events,
    log_e_rate_above,
    log_e_rate_below,
    log_e_share_off,
    log_e_shares_differ,
    log_e_shares_within,
    spread_of_events,
)

RATES = st.floats(0.0, 1.0)
SIZES = st.integers(1, 4)
SLACK = 1 + 1e-9


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def arms(sizes: tuple[tuple[int, int], ...], bad: tuple[tuple[int, int], ...]) -> TwoArms:
    columns = np.array(sizes, dtype=float).T, np.array(bad, dtype=float).T
    return TwoArms(columns[0][0], columns[1][0], columns[0][1], columns[1][1])


def expectation(
    log_e: Callable[[TwoArms], float],
    sizes: tuple[tuple[int, int], ...],
    rates: tuple[tuple[float, float], ...],
) -> float:
    """Over every outcome of blocks of (candidate, stable) sizes, at (candidate, stable) rates."""
    each = [list(itertools.product(range(n + 1), range(m + 1))) for n, m in sizes]
    total = 0.0
    for bad in itertools.product(*each):
        weight = math.prod(
            binomial(x, n, p) * binomial(y, m, q)
            for (x, y), (n, m), (p, q) in zip(bad, sizes, rates, strict=True)
        )
        if weight:
            total += weight * math.exp(log_e(arms(sizes, bad)))
    return total


TWO_BLOCKS = st.tuples(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES))
TWO_RATES = st.tuples(st.tuples(RATES, RATES), st.tuples(RATES, RATES))


@settings(max_examples=60, deadline=None)
@given(TWO_BLOCKS, TWO_RATES)
def test_more_events_under_no_more_events(
    sizes: tuple[tuple[int, int], ...], rates: tuple[tuple[float, float], ...]
) -> None:
    null = tuple((min(pair), max(pair)) for pair in rates)
    assert expectation(log_e_more_events, sizes, null) <= SLACK


@settings(max_examples=60, deadline=None)
@given(TWO_BLOCKS, TWO_RATES, st.floats(0.005, 0.6))
@example(((4, 1), (4, 1)), ((0.3, 0.0), (1.0, 0.7)), 0.3)
def test_within_the_margin_under_beyond_the_margin(
    sizes: tuple[tuple[int, int], ...], rates: tuple[tuple[float, float], ...], margin: float
) -> None:
    one = np.ones(2)
    null = tuple((min(1.0, q + margin + p * (1 - q - margin)), q * (1 - margin)) for p, q in rates)
    null = tuple((max(p, min(1.0, q + margin)), q) for p, q in null)
    found = expectation(lambda a: log_e_rate_below(a, margin=margin, unit=one), sizes, null)
    assert found <= SLACK


@settings(max_examples=60, deadline=None)
@given(TWO_BLOCKS, TWO_RATES, st.floats(0.0, 0.5))
def test_beyond_the_margin_under_within_the_margin(
    sizes: tuple[tuple[int, int], ...], rates: tuple[tuple[float, float], ...], margin: float
) -> None:
    one = np.ones(2)
    null = tuple((min(p, min(1.0, q + margin)), q) for p, q in rates)
    found = expectation(lambda a: log_e_rate_above(a, margin=margin, unit=one), sizes, null)
    assert found <= SLACK


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(RATES, RATES), min_size=3, max_size=3), st.floats(0.02, 0.5))
def test_units_that_stand_and_fall_together_count_as_one(
    rates: list[tuple[float, float]], margin: float
) -> None:
    """Blocks of one unit of four on each side: all of them good, or all of them bad."""
    null = [(max(p, min(1.0, q + margin)), q * (1 - margin)) for p, q in rates]
    null = [(max(p, q + margin), q) for p, q in null]
    sizes = ((4, 4),) * 3
    total = 0.0
    for outcome in itertools.product(itertools.product((0, 4), (0, 4)), repeat=3):
        weight = math.prod(
            (p if x else 1 - p) * (q if y else 1 - q)
            for (x, y), (p, q) in zip(outcome, null, strict=True)
        )
        found = log_e_rate_below(arms(sizes, outcome), margin=margin, unit=np.full(3, 4.0))
        total += weight * math.exp(found)
    assert total <= SLACK


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.95, -0.05), st.floats(0.01, 1.2), st.integers(1, 6))
def test_a_mean_that_is_zero_is_not_taken_for_positive(low: float, high: float, n: int) -> None:
    p = -low / (high - low)
    total = sum(
        binomial(k, n, p)
        * math.exp(log_e_mean_positive(np.array([high] * k + [low] * (n - k)), lowest=low))
        for k in range(n + 1)
    )
    assert total <= SLACK


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.005, 0.4), st.integers(1, 7))
def test_pairs_under_their_nulls(discordant: float, margin: float, n: int) -> None:
    one = np.ones(1)
    for edge, log_e in (
        (margin, lambda w, x, e: log_e_candidate_better(w, x, e, margin=margin, unit=one)),
        (0.0, lambda w, x, e: log_e_candidate_worse(w, x, e, unit=one)),
    ):
        share = max(discordant, edge)
        won, lost = (share - edge) / 2, (share + edge) / 2
        total = 0.0
        for a, b in itertools.product(range(n + 1), repeat=2):
            if a + b <= n:
                c = n - a - b
                ways = math.factorial(n) / math.prod(map(math.factorial, (a, b, c)))
                weight = ways * won**a * lost**b * (1 - share) ** c
                total += weight * math.exp(log_e(a * one, b * one, c * one))
        assert total <= SLACK


def test_what_befalls_both_arms_alike_is_evidence_of_nothing() -> None:
    n = np.full(30, 100.0)
    calm, storm = np.full(30, 1.0), np.where(np.arange(30) // 10 == 1, 40.0, 1.0)
    assert log_e_more_events(TwoArms(n, storm, n, storm)) < 0
    assert log_e_more_events(TwoArms(n, storm, n, calm)) > 100


@pytest.mark.parametrize("log_e", [log_e_more_events])
def test_no_data_is_an_e_value_of_one(log_e: Callable[[TwoArms], float]) -> None:
    none = np.zeros(0)
    nothing = TwoArms(none, none, none, none)
    assert log_e(nothing) == pytest.approx(0.0)
    assert log_e_rate_below(nothing, margin=0.1, unit=none) == 0.0
    assert log_e_rate_above(nothing, margin=0.1, unit=none) == 0.0
    assert log_e_mean_positive(none, lowest=-1.0) == 0.0
    assert log_e_candidate_better(none, none, none, margin=0.1, unit=none) == 0.0
    assert log_e_candidate_worse(none, none, none, unit=none) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 0.95), st.floats(-1.0, 1.0), st.floats(0.0, 0.3))
def test_a_share_within_its_tolerance_is_not_off(
    n: int, share: float, where: float, tolerance: float
) -> None:
    one = np.ones(1)
    p = share + where * tolerance * min(share, 1 - share)
    total = sum(
        binomial(k, n, p)
        * math.exp(
            log_e_share_off(k * one, n * one, share=share * one, tolerance=tolerance, unit=one)
        )
        for k in range(n + 1)
    )
    assert total <= SLACK


def test_a_share_that_is_off_is_seen_in_either_direction() -> None:
    def log_e(mine: float) -> float:
        one = np.ones(1)
        return log_e_share_off(mine * one, 5000 * one, share=0.1 * one, tolerance=0.05, unit=one)

    assert log_e(500) < 0 < math.log(1000) < min(log_e(360), log_e(650))


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.05, 0.95),
    st.floats(0.02, 0.4),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_drift_under_its_nulls(stable: float, margin: float, within: float, up: bool) -> None:
    """Two blocks of two answers of two classes on each side, every outcome counted."""
    sign = 1 if up else -1
    for test, distance in (
        (log_e_shares_differ, within * margin),
        (log_e_shares_within, margin + within * 0.3),
    ):
        candidate = stable + sign * distance
        if not 0.0 <= candidate <= 1.0:
            continue
        expected = 0.0
        for outcome in itertools.product(range(3), repeat=4):
            weight = math.prod(
                binomial(k, 2, p) for k, p in zip(outcome, (candidate, stable) * 2, strict=True)
            )
            mine, others = (np.array([[a, 2 - a] for a in outcome[i::2]], float).T for i in (0, 1))
            expected += weight * math.exp(test(mine, others, margin=margin, unit=np.ones(2)))
        assert expected <= SLACK


def test_events_of_a_burst_weigh_less_than_as_many_alone() -> None:
    rng = np.random.default_rng(1)
    n = np.full(200, 50.0)
    lone = TwoArms(n, rng.binomial(50, 0.02, 200) * 1.0, n, rng.binomial(50, 0.02, 200) * 1.0)
    bursts = [rng.binomial(1, 0.05, 200) * 20.0 for _ in range(2)]
    burst = TwoArms(n, bursts[0], n, bursts[1])
    assert spread_of_events(lone).max() < 1.5
    assert spread_of_events(burst)[bursts[0] > 0].min() > 10


def test_the_events_of_few_blocks_count_as_one_a_block() -> None:
    n = np.full(5, 100.0)
    few = TwoArms(n, np.array([9.0, 0, 0, 0, 0]), n, np.array([1.0, 0, 2, 0, 0]))
    assert spread_of_events(few).tolist() == [10.0, 1.0, 2.0, 1.0, 1.0]
    assert log_e_more_events(few, unit=spread_of_events(few)) < log_e_more_events(few) / 3
