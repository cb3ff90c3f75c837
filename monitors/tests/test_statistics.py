"""The claims that the detectors are built of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from coalmine_monitors.detectors import (
    BlockCalibration,
    EDetector,
    bets_on_less,
    calibrate,
    e_benjamini_hochberg,
)
from coalmine_monitors.drift import psi
from coalmine_monitors.sketches import Histograms, category_edges, numeric_edges


def test_a_calibrated_uniform_pvalue_is_an_evalue() -> None:
    # In log scale, because a third of the expectation comes from p-values below 0.05.
    mean, _ = integrate.quad(
        lambda log: float(calibrate(np.array([np.exp(log)]))[0]) * np.exp(log), -690, 0, limit=500
    )
    assert 0.95 < mean <= 1.0 + 1e-6


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
            detector.update(calibrate(rng.random(streams)))
        runs.append(detector.updates)
    assert np.mean(runs) >= declared


def test_evidence_never_exceeds_shiryaev_roberts() -> None:
    rng = np.random.default_rng(4)
    detector, roberts = EDetector(streams=3, run_length=1e6), np.zeros(3)
    for _ in range(500):
        evalues = calibrate(rng.random(3))
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


def test_what_the_reference_has_seen_is_no_news() -> None:
    usual = np.full((19, 1), 0.0) + np.linspace(-0.1, 0.1, 19)[:, None]
    values = np.vstack([usual, [[3.0]]])  # one cold snap
    floor = (np.zeros(1), np.full(1, 0.01))
    calibration = BlockCalibration.fit(values, floor=floor, two_sided=True)
    assert calibration.pvalues(np.array([2.9]))[0] >= 2 / 21
    assert calibration.pvalues(np.array([20.0]))[0] < 1e-4


def test_pvalues_hold_for_a_given_reference_not_only_on_average() -> None:
    """Judged by 20 windows, a fixed reference gives too many small p-values in few cases only."""
    rng = np.random.default_rng(5)
    references = 200
    floor = (np.zeros(references), np.full(references, 1e-6))
    calibration = BlockCalibration.fit(
        rng.standard_normal((20, references)), floor=floor, two_sided=True
    )
    p = np.stack([calibration.pvalues(row) for row in rng.standard_normal((4000, references))])
    assert ((p < 0.01).mean(axis=0) > 0.01).mean() < 0.1


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
