"""Every supported detector: silent where nothing changed, loud where it did, restarts or not."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cases import COLUMNS, rows, service, shifted

from coalmine_alibi._build import build_detector
from coalmine_alibi._catalogue import CATALOGUE
from coalmine_alibi._check import check
from coalmine_alibi._detector import CALM, AlibiDetector

SMALL = {"window_rows": 100, "expected_run_length": 1000, "reference_rows": 400}
KERNEL = {
    "window_rows": 60,
    "expected_run_length": 50,
    "reference_rows": 150,
    "features": ["a", "b"],
}
ONLINE = {"window_rows": 20, "expected_run_length": 3000, "reference_rows": 100, "features": ["a"]}
#: Its thresholds take long to simulate.
ONLINE_KERNEL = {**ONLINE, "window_rows": 10, "expected_run_length": 150}


@dataclass(frozen=True)
class Case:
    detector: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    names: str = "a"
    """The feature an incident has to name first; empty: it names none of its own."""

    def make(self, **more: Any) -> AlibiDetector:
        asked = {"detector": self.detector, "options": self.options, **self.settings, **more}
        (plan,) = check(service(asked))
        return build_detector(plan, COLUMNS, rows(0, 2000))


CASES = [
    Case("KSDrift", SMALL),
    Case("CVMDrift", SMALL),
    Case("ChiSquareDrift", SMALL, names="mode"),
    Case("TabularDrift", SMALL, names=""),
    Case("FETDrift", SMALL, names="flag"),
    Case("MMDDrift", KERNEL),
    Case("LSDDDrift", KERNEL),
    Case("ClassifierDrift", SMALL | {"reference_rows": 200}, {"n_folds": 3}),
    Case("SpotTheDiffDrift", KERNEL, {"epochs": 8, "learning_rate": 0.2, "train_size": 0.5}),
    Case("CVMDriftOnline", ONLINE, {"n_bootstraps": 5000}),
    Case("FETDriftOnline", {**ONLINE, "features": ["flag"]}, {"n_bootstraps": 5000}, names="flag"),
    Case("MMDDriftOnline", ONLINE_KERNEL, {"n_bootstraps": 250}),
    Case("LSDDDriftOnline", ONLINE_KERNEL, {"n_bootstraps": 250}),
    Case("IForest", SMALL | {"reference_rows": 800}),
    Case("Mahalanobis", SMALL | {"reference_rows": 800}),
    Case("GMM", SMALL | {"reference_rows": 800}),
    Case(
        "SpectralResidual",
        SMALL | {"reference_rows": 2000, "features": ["a"], "expected_run_length": 100},
    ),
    Case("KNN", SMALL | {"reference_rows": 800}),
    Case("LOF", SMALL | {"reference_rows": 800}),
    # Of independent columns two components may well be all that changes, where it sees nothing.
    Case("PCA", SMALL | {"reference_rows": 800}, {"n_components": 1}),
    Case("SVM", SMALL | {"reference_rows": 800}),
]
TORCH_ONLY = {name for name, entry in CATALOGUE.items() if entry.backends == ("pytorch",)}


def params() -> list[Any]:
    missing = importlib.util.find_spec("torch") is None
    skip = pytest.mark.skipif(missing, reason="needs PyTorch, which is not in the lock")
    return [
        pytest.param(case, id=case.detector, marks=skip if case.detector in TORCH_ONLY else ())
        for case in CASES
    ]


def test_every_supported_detector_has_a_case() -> None:
    assert {case.detector for case in CASES} == set(CATALOGUE)


def feed(detector: AlibiDetector, values: Any, *, start: int = 0) -> list[dict[str, Any]]:
    """The reports of the windows that the rows fill; a row a second."""
    reports, place = [], 0
    columns = [COLUMNS.index(column) for column in detector.columns]
    while place < len(values):
        taken = values[place : place + detector.fits(np.arange(1e4))][:, columns]
        before = detector.windows
        detector.update(taken, start + place + np.arange(len(taken), dtype=np.float64))
        place += len(taken)
        if detector.windows > before:
            reports.append(dict(detector.report))
    return reports


def change(case: Case, count: int) -> Any:
    values = shifted(2, count)
    if case.detector == "SpectralResidual":
        # Its outliers are points of a series that stand out from those around them.
        values = rows(2, count)
        values[np.random.default_rng(3).random(len(values)) < 0.1, 0] += 8.0
    return values


@pytest.mark.parametrize("case", params())
def test_silent_on_the_null_loud_on_a_shift_and_the_same_after_a_restart(case: Case) -> None:
    whole = case.make()
    window = whole.fits(np.arange(1e4))
    quiet, loud = rows(1, 2 * window), change(case, 4 * window)
    silent = feed(whole, quiet)
    assert [report["alarm"] for report in silent] == [False, False]
    assert whole.finding is not None
    assert not whole.finding.detected
    # Here a process dies, and below another one within a window of the shift.
    state = json.dumps(whole.state())
    alarms = feed(whole, loud, start=len(quiet))

    assert any(report["alarm"] for report in alarms)
    assert whole.finding.detected
    assert whole.finding.onset >= len(quiet)
    if case.names and case.detector != "SpectralResidual":
        assert whole.finding.features[0].name == case.names
        assert whole.finding.features[0].direction in ("up", "other")
    json.dumps(dict(whole.finding.evidence))

    again = case.make()
    again.restore(json.loads(state))
    pieces = feed(again, loud[: window + window // 3], start=len(quiet))
    state = json.dumps(again.state())
    again.restore(json.loads(state))
    pieces += feed(again, loud[window + window // 3 :], start=len(quiet) + window + window // 3)
    assert pieces == alarms


def test_an_incident_ends_after_calm_windows() -> None:
    detector = CASES[0].make()
    feed(detector, shifted(2, 100))
    assert detector.finding is not None
    assert detector.finding.detected
    for _ in range(CALM - 1):
        feed(detector, rows(detector.windows + 10, 100))
        assert detector.finding.detected
    feed(detector, rows(50, 100))
    assert not detector.finding.detected


def test_rows_it_cannot_read_are_left_out_and_counted() -> None:
    detector = CASES[0].make()
    values = rows(1, 300)
    values[::3, 1] = np.nan
    values[1::30, 0] = np.inf
    reports = feed(detector, values)
    assert len(reports) == 1
    assert not reports[0]["alarm"]
    assert detector.skipped == 110


def test_a_binary_detector_leaves_out_what_is_neither_0_nor_1() -> None:
    detector = next(case for case in CASES if case.detector == "FETDrift").make()
    values = rows(1, 220)
    values[::10, 3] = 2.0
    feed(detector, values)
    assert (detector.windows, detector.skipped) == (1, 22)
