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
