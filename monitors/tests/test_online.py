"""Detectors of streams of one value: declared run length, delay, recovery, any pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors.detectors import Case, yield_checks
from coalmine_monitors.online import BoundedMeanDetector, ScoreDetector


def errors(rows: int, *, rate: float, later: float | None = None, seed: int = 1) -> Any:
    """Errors, 0 or 1, with another rate in the second half."""
    rates = np.where(np.arange(rows) < rows // 2, rate, rate if later is None else later)
    return (np.random.default_rng(seed).random(rows) < rates).astype(np.float64)


def bursts(rows: int, *, rate: float, length: int, rng: np.random.Generator) -> Any:
    """Errors that come in bursts of this length in the mean (a Markov chain)."""
    leave = 1 / length
    enter = leave * rate / (1 - rate)
    stays = rng.geometric([enter, leave], size=(int(rows * (1 - rate) * enter) + 50, 2))
    stream = np.repeat(np.tile([0.0, 1.0], len(stays)), stays.ravel())
    while stream.size < rows:
        stream = np.tile(stream, 2)
    return stream[:rows]


def scores(rows: int, *, rho: float, shift: float = 0.0, seed: int = 2) -> Any:
    """An AR(1) process with heavy tails, shifted in the second half."""
    noise = np.random.default_rng(seed).standard_normal(rows + 200) * np.sqrt(1 - rho**2)
    values = np.asarray(lfilter([1], [1, -rho], noise)[200:])
    values[rows // 2 :] += shift
    return np.sinh(2 * values)


def error_rate(block_rows: int = 1) -> BoundedMeanDetector:
    return BoundedMeanDetector(limit=0.06, run_length=1_000_000, block_rows=block_rows)


def bounded() -> BoundedMeanDetector:
    return BoundedMeanDetector(limit=0.4, run_length=1e6, low=-1, high=2, below=True, block_rows=7)


def unbounded() -> ScoreDetector:
    return ScoreDetector(scores(20_000, rho=0.5, seed=9), run_length=1_000_000, block_rows=100)


def feed(detector: Any, part: Any) -> None:
    detector.update(part)


CASES = (
    Case(
        "errors", error_rate, feed, errors(20_000, rate=0.04), errors(20_000, rate=0.04, later=0.2)
    ),
    Case(
        "bounded",
        bounded,
        feed,
        0.6 + 0.1 * scores(8_000, rho=0.0).clip(-2, 2),
        0.6 + 0.1 * scores(8_000, rho=0.0, shift=-3).clip(-6, 2),
    ),
    Case("scores", unbounded, feed, scores(20_000, rho=0.5), scores(20_000, rho=0.5, shift=1.0)),
)


def checks() -> Iterator[Any]:
    for case in CASES:
        for name, check in yield_checks(case):
            yield pytest.param(check, id=name)


@pytest.mark.parametrize("check", list(checks()))
def test_detector(check: Callable[[], None]) -> None:
    check()


def first_alarm(detector: Any, stream: Any) -> int | None:
    for start in range(0, len(stream), 100):
        detector.update(stream[start : start + 100])
        if detector.detected:
            return start + 100
    return None


@pytest.mark.parametrize(("length", "block"), [(1, 1), (5, 50), (20, 200)])
def test_errors_at_the_limit_have_at_least_the_declared_run_length(length: int, block: int) -> None:
    """A limit a quarter above the rate takes bursts; without any the rate may be the limit."""
    rng = np.random.default_rng(51)
    declared, rate, rows, alarms = 5_000, 0.04, 0, 0
    for _ in range(30):
        stream = (
            (rng.random(15_000) < rate).astype(np.float64)
            if length == 1
            else bursts(15_000, rate=rate, length=length, rng=rng)
        )
        limit = rate if length == 1 else 1.25 * rate
        detector = BoundedMeanDetector(limit=limit, run_length=declared, block_rows=block)
        after = first_alarm(detector, stream)
        alarms += after is not None
        rows += after or len(stream)
    assert rows / max(alarms, 1) >= declared


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_scores_of_any_likeness_have_at_least_the_declared_run_length(rho: float) -> None:
    declared, rows, alarms = 10_000, 0, 0
    for seed in range(12):
        stream = scores(30_000, rho=rho, seed=60 + seed)
        detector = ScoreDetector(stream[:10_000], run_length=declared, block_rows=100)
        after = first_alarm(detector, stream[10_000:])
        alarms += after is not None
        rows += after or 20_000
    assert rows / max(alarms, 1) >= declared


def test_a_doubled_error_rate_is_found_in_time_with_its_onset_and_ends_when_it_is_over() -> None:
    delays = []
    for seed in range(8):
        detector = BoundedMeanDetector(limit=0.05, run_length=10_000)
        rng = np.random.default_rng(seed)
        stream = (rng.random(9_000) < np.repeat([0.04, 0.1, 0.02], 3_000)).astype(np.float64)
        after = first_alarm(detector, stream[:6_000])
        assert after is not None
        delays.append(after - 3_000)
        assert detector.onset == pytest.approx(3_000, abs=600)
        assert detector.score > 0.05
        detector.update(stream[after:])
        assert not detector.detected
    assert min(delays) > 0
    assert np.median(delays) <= 500, delays


def test_a_spread_that_grows_is_found_and_forgotten_when_it_is_over() -> None:
    rng = np.random.default_rng(52)
    detector = ScoreDetector(rng.standard_normal(10_000), run_length=100_000, block_rows=100)
    detector.update(rng.standard_normal(3_000))
    assert not detector.detected
    detector.update(2 * rng.standard_normal(1_000))
    assert detector.detected
    assert detector.onset == pytest.approx(3_000, abs=100)
    detector.update(rng.standard_normal(4_000))
    assert not detector.detected


def test_times_are_the_onsets_unit_and_nan_is_no_row() -> None:
    detector = BoundedMeanDetector(limit=0.1, run_length=1_000, block_rows=3)
    values = np.repeat([0.0, np.nan, 1.0], [300, 50, 60])
    for start in range(0, values.size, 7):
        detector.update(values[start : start + 7], 1e9 + np.arange(values.size)[start : start + 7])
    assert detector.detected
    assert detector.rows == 360
    assert detector.onset == 1e9 + 350


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"limit": 1.0, "run_length": 100}, "limit: 1.0 is not between 0.0 and 1.0"),
        ({"limit": 0.5, "run_length": 100, "high": np.inf}, "limit: "),
        ({"limit": 0.5, "run_length": 100, "block_rows": 0}, "block_rows: 0"),
        ({"limit": 0.5, "run_length": 10, "block_rows": 20}, "run_length: 10"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BoundedMeanDetector(**settings)


def test_a_reference_that_is_too_short_is_refused() -> None:
    with pytest.raises(UnusableReferenceError, match="10 blocks of 100; it takes 20"):
        ScoreDetector(np.zeros(1_000), run_length=1_000)
