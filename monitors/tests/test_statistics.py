"""The claims that the detectors are built of."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalmine_monitors.detectors import (
    LOOK_BACK,
    Baseline,
    EDetector,
    ShiftDetector,
    bets_on_less,
    e_benjamini_hochberg,
)
from coalmine_monitors.detectors._bayes import SIZES, Factors
from coalmine_monitors.drift import psi
from coalmine_monitors.sketches import Histograms, category_edges, numeric_edges


@given(mean=st.floats(0.01, 0.99), low=st.floats(0, 1), high=st.floats(0, 1))
def test_no_bet_wins_on_average_while_the_mean_is_where_it_should_be(
    mean: float, low: float, high: float
) -> None:
    low, high = low * mean, mean + high * (1 - mean)  # two values around the mean ...
    share = (mean - low) / (high - low) if high > low else 0.5  # ... mixed to have it
    expectation = share * bets_on_less(high, mean) + (1 - share) * bets_on_less(low, mean)
    assert np.all(expectation <= 1 + 1e-6)
    assert np.all(bets_on_less(1.0, mean) >= 0)


@pytest.mark.parametrize("streams", [1, 20])
def test_windows_between_false_alarms_are_at_least_the_declared(streams: int) -> None:
    rng = np.random.default_rng(3)
    declared, runs = 50, []
    for _ in range(60):
        detector = EDetector(streams=streams, run_length=declared)
        while not detector.alarm and detector.updates < 20 * declared:
            detector.update(np.exp(rng.standard_normal(streams) - 0.5))
        runs.append(detector.updates)
    assert np.mean(runs) >= declared


def test_evidence_never_exceeds_shiryaev_roberts() -> None:
    rng = np.random.default_rng(4)
    detector, roberts = EDetector(streams=3, run_length=1e6), np.zeros(3)
    for _ in range(500):
        evalues = np.exp(rng.standard_normal(3) - 0.5)
        detector.update(evalues)
        roberts = (roberts + 1) * evalues
        assert np.all(detector.evidence <= roberts + 1e-9)


def test_one_window_alone_never_raises_an_alarm() -> None:
    detector = EDetector(streams=20, run_length=2000)
    detector.update(np.full(20, 1e300))
    assert not detector.alarm
    detector.update(np.full(20, 1e300))
    assert detector.alarm


def test_e_bh_names_nothing_on_little_evidence() -> None:
    assert not e_benjamini_hochberg(np.full(30, 5.0), level=0.1).any()
    assert e_benjamini_hochberg(np.array([1e4, 1.0, 1e4]), level=0.1).tolist() == [
        True,
        False,
        True,
    ]


def baseline(rng: np.random.Generator, *, streams: int, windows: int = 20) -> Baseline:
    floor = (np.zeros(streams), np.zeros(streams))
    past = rng.standard_normal((windows, streams)) * 3 + 7
    return Baseline.fit(past, floor=floor, two_sided=np.ones(streams, dtype=np.bool_))


@pytest.mark.parametrize("windows", [1, 2, 5, LOOK_BACK])
def test_a_bayes_factor_is_at_most_one_on_average_while_nothing_happens(windows: int) -> None:
    """Of a shift since the last `windows`; the unknown mean and spread have dropped out."""
    rng = np.random.default_rng(5)
    streams = 20_000
    past = baseline(rng, streams=streams)
    past = dataclasses.replace(past, correlation=np.zeros(streams))
    recent = rng.standard_normal((LOOK_BACK, 1, streams)) * 3 + 7
    factors = Factors(past)
    squared = factors.squared(recent, np.full((1, streams), windows))
    # Cut off where its heavy tail would make an average of so many a matter of luck.
    assert 0.4 < np.minimum(factors.of(squared)[windows - 1], 50).mean() < 1.05


def _plainly(past: Baseline, values: list[list[float]]) -> list[float]:
    """The evidence of each stream's values [windows], latest last, by the formula."""
    evidence = []
    for stream, own in enumerate(values):
        factors = [1.0] if not own else []
        for count in range(1, min(len(own), LOOK_BACK) + 1):
            recent = own[-count:]
            mean = sum(recent) / count
            away = mean - past.mean[stream]
            if away <= 0 and not past.two_sided[stream]:
                factors.append(0.0)
                continue
            size = past.size(LOOK_BACK)[count - 1, stream]
            within = past.squares[stream] + sum((each - mean) ** 2 for each in recent)
            t = size * away**2 / within
            found = [
                ((1 + t) / (1 + t / (1 + size * scale**2))) ** ((past.windows + count - 1) / 2)
                / math.sqrt(1 + size * scale**2)
                for scale in SIZES
            ]  # fmt: skip
            factors.append(sum(found) / len(SIZES))
        evidence.append(max(factors))
    return evidence


def test_evidence_of_many_windows_at_once_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(10)
    past = baseline(rng, streams=3, windows=30)
    past = dataclasses.replace(past, two_sided=np.array([True, False, True]))
    values = rng.standard_normal((60, 3)) * 3 + 7
    values[40:, 1] += 4
    values[rng.random((60, 3)) < 0.1] = np.nan
    at_once, one_by_one = (ShiftDetector(past, run_length=1000) for _ in range(2))
    at_once.expect(values[:25])
    kept: list[list[float]] = [[], [], []]
    for number, row in enumerate(values):
        if number == 25:
            at_once.expect(values[25:])
        at_once.advance()
        one_by_one.update(row)
        kept = [[] if math.isnan(x) else [*own, x] for own, x in zip(kept, row, strict=True)]
        assert at_once.evidence == pytest.approx(_plainly(past, kept), rel=1e-9)
        assert at_once.evidence.tolist() == one_by_one.evidence.tolist()
        assert at_once.combined <= at_once.bound * (1 + 1e-9) or at_once.bound < 1
        assert at_once.state() == one_by_one.state()
        if number == 50:
            at_once.forget()
            one_by_one.forget()
            kept = [[], [], []]


@pytest.mark.parametrize("streams", [1, 40])
def test_windows_between_two_alarms_are_at_least_the_declared(streams: int) -> None:
    rng = np.random.default_rng(6)
    declared, runs = 20, []
    for _ in range(60):
        detector = ShiftDetector(baseline(rng, streams=streams), run_length=declared)
        while not detector.alarm and detector.updates < 5 * declared:
            detector.update(rng.standard_normal(streams) * 3 + 7)
        runs.append(detector.updates)
    assert np.mean(runs) >= declared


def test_evidence_is_of_a_move_by_how_much_and_since_when() -> None:
    rng = np.random.default_rng(7)
    past = baseline(rng, streams=3, windows=40)
    past = dataclasses.replace(past, two_sided=np.array([True, False, True]))
    detector = ShiftDetector(past, run_length=1000)
    for index in range(30):
        moved = np.array([12.0, -12.0, 0.0]) if index >= 27 else np.zeros(3)
        detector.update(rng.standard_normal(3) * 3 + 7 + moved)
    assert detector.alarm
    assert detector.evidence[0] > 1000
    assert detector.evidence[1] < 1, "a shape that is closer than usual is no news"
    assert detector.began[0] == 27


def test_a_stream_without_a_value_begins_anew_and_leaves_the_others_alone() -> None:
    rng = np.random.default_rng(8)
    detector = ShiftDetector(baseline(rng, streams=2), run_length=1000)
    for _ in range(3):
        detector.update(np.array([30.0, 30.0]))
    before = detector.evidence
    detector.update(np.array([np.nan, 30.0]))
    assert detector.evidence[0] == 1.0
    assert detector.evidence[1] > before[1]


def test_windows_that_hang_together_count_as_fewer() -> None:
    """A season turns slowly: its peak is one observation, however many windows long."""
    swing = np.sin(np.arange(60) * 2 * np.pi / 24)[:, None]
    noise = np.random.default_rng(9).standard_normal((60, 1)) * 0.1
    floor = (np.zeros(1), np.zeros(1))
    past = Baseline.fit(swing + noise, floor=floor, two_sided=np.array([True]))
    assert past.correlation[0] > 0.8
    detector = ShiftDetector(past, run_length=100)
    for value in 1.0 + noise[:8, 0]:
        detector.update(np.array([value]))
    assert detector.combined < 10


def test_counts_of_parts_add_up_to_the_counts_of_the_whole() -> None:
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((1000, 2))
    rows[:, 1] = rng.integers(0, 5, 1000)
    rows[::7, 0] = np.nan
    sketch = Histograms(edges=(numeric_edges(rows[:, 0]), category_edges(4)))
    whole = sketch.count(rows)
    assert np.array_equal(whole, sketch.count(rows[:311]) + sketch.count(rows[311:]))
    assert whole[0].sum() == np.isfinite(rows[:, 0]).sum()
    assert whole[1, 4] == (rows[:, 1] == 4).sum(), "an unknown category has a bin of its own"


@pytest.mark.parametrize("moved", [2.9, 3.1, -7.0])
def test_a_constant_that_changes_is_another_bin(moved: float) -> None:
    sketch = Histograms(edges=(numeric_edges(np.full(50, 3.0)),))
    usual, now = (sketch.count(np.full((50, 1), value)) for value in (3.0, moved))
    assert psi(now, usual, valid=sketch.valid)[0] > 1
    assert psi(usual, usual, valid=sketch.valid)[0] == 0


def test_the_bias_of_psi_is_the_published_one() -> None:
    rng = np.random.default_rng(7)
    sketch = Histograms(edges=(numeric_edges(rng.standard_normal(100_000)),))
    reference = sketch.count(rng.standard_normal((5000, 1)))
    scores = [
        psi(sketch.count(rng.standard_normal((200, 1))), reference, valid=sketch.valid)[0]
        for _ in range(400)
    ]
    assert np.mean(scores) == pytest.approx(9 * (1 / 200 + 1 / 5000), rel=0.1)
