"""Every detector passes the shared checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coalmine.modeldir import Column
from coalmine.spec import FeatureSpec
from coalmine_monitors.detectors import Case, yield_checks
from coalmine_monitors.drift import DriftDetector, build_reference
from coalmine_monitors.performance import AccuracyDetector, Scored
from coalmine_monitors.quality import QualityDetector, StreamChecks, build_rules

COLUMNS = (Column(name="x"), Column(name="y"), Column(name="z"))


def rows(count: int, *, seed: int, shift: float = 0.0) -> Any:
    """Rows of features, the last column their time; shifted from the middle on."""
    values = np.random.default_rng(seed).standard_normal((count, len(COLUMNS)))
    values[count // 2 :, 1] += shift
    return np.column_stack([values, np.arange(count, dtype=np.float64)])


def reference() -> pa.Table:
    past = rows(8000, seed=1)
    return pa.table({column.name: past[:, index] for index, column in enumerate(COLUMNS)})


def feed_rows(detector: Any, part: Any) -> None:
    while len(part):
        piece, part = part[: detector.room], part[detector.room :]
        detector.update(piece[:, :-1], piece[:, -1])


def drift() -> DriftDetector:
    calibrated = build_reference(reference(), COLUMNS, window_rows=200, min_effect=0.2)
    return DriftDetector(calibrated, window_rows=200, run_length=1000)


def stream() -> StreamChecks:
    return StreamChecks(COLUMNS, interval_s=60.0, factor=4.0, remembered=100)


def quality() -> QualityDetector:
    check = FeatureSpec(name="y", role="sensor_check", tolerance=1.0)
    rules = build_rules(COLUMNS, [check], reference(), window_rows=100)
    return QualityDetector(COLUMNS, rules, window_rows=100, consecutive=2, stream=stream())


def accuracy() -> AccuracyDetector:
    return AccuracyDetector(baseline=0.95, margin=0.03, run_length=500, block_s=1.0)


def scored(count: int, *, later: float) -> list[Scored]:
    rng = np.random.default_rng(2)
    right = rng.random(count) < np.where(np.arange(count) < count // 2, 0.95, later)
    return [
        Scored("1", "stable", index / 100, index / 100 + 5, index, bool(correct))
        for index, correct in enumerate(right)
    ]


def feed_scored(detector: Any, part: Any) -> None:
    for row in part:
        detector.update(row)


CASES = (
    Case("drift", drift, feed_rows, rows(8000, seed=3), rows(8000, seed=3, shift=1.0)),
    Case("quality", quality, feed_rows, rows(4000, seed=4), rows(4000, seed=4, shift=2.0)),
    Case("accuracy", accuracy, feed_scored, scored(8000, later=0.95), scored(8000, later=0.8)),
)


def checks() -> Iterator[Any]:
    for case in CASES:
        for name, check in yield_checks(case):
            yield pytest.param(check, id=name)


@pytest.mark.parametrize("check", list(checks()))
def test_detector(check: Callable[[], None]) -> None:
    check()


def test_a_detector_that_is_wrong_is_found_out() -> None:
    class Forgetful(QualityDetector):
        def state(self) -> dict[str, Any]:
            return {**super().state(), "streaks": []}

    def make() -> QualityDetector:
        right = quality()
        return Forgetful(
            right.columns, right._rules, window_rows=100, consecutive=2, stream=stream()
        )

    case = Case("forgetful", make, feed_rows, CASES[1].calm, CASES[1].troubled)
    failed = []
    for name, check in yield_checks(case):
        try:
            check()
        except AssertionError:
            failed.append(name)
    assert failed == ["forgetful:survives_restarts"]


def test_recovered_accuracy_ends_the_verdict_and_noise_around_the_threshold_does_not_flap() -> None:
    rng = np.random.default_rng(8)
    detector, flips, last = accuracy(), 0, False
    for index in range(60_000):
        share = 0.8 if index < 5000 else 0.92 if index < 40_000 else 0.96
        detector.update(Scored("1", "stable", 0.0, index / 100, index, bool(rng.random() < share)))
        flips += detector.detected is not last
        last = detector.detected
    assert flips == 2
    assert not detector.detected


def test_drift_ends_with_hysteresis_and_can_come_again() -> None:
    detector = drift()
    spans = []
    for count, shift in ((2000, 0.0), (3000, 1.0), (4000, 0.0), (2000, 1.0)):
        part = rows(count, seed=count)
        part[:, 2] += shift
        feed_rows(detector, part)
        spans.append(detector.detected)
    assert spans == [False, True, False, True]
    assert detector.finding is not None
    assert [feature.name for feature in detector.finding.features] == ["z"]
    assert detector.finding.features[0].direction == "up"


def test_missing_values_alone_are_no_drift() -> None:
    detector = drift()
    part = rows(6000, seed=9)
    part[2000:, 0] = np.nan
    part[2000:, 1][::3] = np.nan
    feed_rows(detector, part)
    assert not detector.detected


def test_quality_names_each_kind_of_fault() -> None:
    detector = quality()
    part = rows(2000, seed=10)
    part[1000:, 0] = 4.5
    part[1000:, 1] -= 3
    part[1000:, 2][::2] = np.nan
    feed_rows(detector, part)
    assert detector.finding is not None
    found = {feature.name: feature.statistic for feature in detector.finding.features}
    assert found == {"x": "constant", "y": "sensor_check", "z": "missing"}
    assert detector.finding.features[0].name == "y", "the check of sensors says most"
    assert detector.finding.onset == pytest.approx(1000, abs=100)


def test_a_feature_that_was_constant_before_may_stay_so() -> None:
    past = reference().set_column(0, "x", pa.array(np.zeros(8000)))
    rules = build_rules(COLUMNS, [], past, window_rows=100)
    detector = QualityDetector(COLUMNS, rules, window_rows=100, consecutive=1, stream=stream())
    part = rows(1000, seed=12)
    part[:, 0] = 0.0
    feed_rows(detector, part)
    assert not detector.detected
