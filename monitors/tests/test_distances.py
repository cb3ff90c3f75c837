"""Distances from counts say what the textbook's formulas say of the rows themselves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from coalmine.modeldir import Column
from coalmine_monitors.drift import DriftDetector, Reference, build_reference, psi
from coalmine_monitors.sketches import numeric_edges

COLUMNS = (
    Column(name="x"),
    Column(name="kind", type="categorical", categories=("a", "b", "c")),
)


def rows(count: int, rng: np.random.Generator, *, shift: float = 0.0, p: Any = None) -> Any:
    """A gamma-distributed number, far from normal, and a category."""
    number = rng.gamma(2.0, 3.0, count) + shift
    return np.column_stack([number, rng.choice(3, count, p=p or (0.6, 0.3, 0.1))])


def reference(past: Any, *, window: int, min_effect: float = 0.1) -> Reference:
    table = pa.table({"x": past[:, 0], "kind": past[:, 1].astype(np.int64)})
    return build_reference(table, COLUMNS, window_rows=window, min_effect=min_effect)


def judged(known: Reference, live: Any) -> Any:
    detector = DriftDetector(known, window_rows=len(live), run_length=100)
    detector.update(live, np.arange(len(live), dtype=np.float64))
    return detector.report["features"]


@pytest.mark.parametrize("shift", [0.5, 3.0, 40.0])
def test_distances_are_those_of_the_rows(shift: float) -> None:
    rng = np.random.default_rng(31)
    past, live = rows(20_000, rng), rows(2000, rng, shift=shift, p=(0.3, 0.3, 0.4))
    known = reference(past, window=2000)
    features = judged(known, live)
    found = {
        (name, statistic): value + known.usual[statistic].bias[index]
        for index, name in enumerate(("x", "kind"))
        for statistic, value in features[name]["statistics"].items()
    }
    x, y = past[:, 0], live[:, 0]
    assert found["x", "ks"] == pytest.approx(stats.ks_2samp(x, y).statistic, rel=0.05)
    moved = stats.wasserstein_distance(x, y) / x.std()
    assert found["x", "wasserstein"] == pytest.approx(moved, rel=0.35 if shift > 20 else 0.1)
    counts = [np.bincount(part[:, 1].astype(int), minlength=3) for part in (past, live)]
    chi = stats.chi2_contingency(counts).statistic * (1 / len(past) + 1 / len(live))
    assert found["kind", "chi_squared"] == pytest.approx(chi, rel=0.01)
    js = jensenshannon(*counts, base=2) ** 2
    assert found["kind", "js"] == pytest.approx(js, rel=0.02)
    assert set(features["kind"]["statistics"]) == {"psi", "js", "chi_squared"}
    assert set(features["x"]["statistics"]) == {"psi", "js", "ks", "wasserstein"}


def test_an_alarm_says_how_far_and_since_when() -> None:
    rng = np.random.default_rng(32)
    detector = DriftDetector(reference(rows(8000, rng), window=200), window_rows=200, run_length=50)
    for index in range(12):
        part = rows(200, rng, shift=4.0 if index >= 7 else 0.0)
        detector.update(part, index * 200.0 + np.arange(200))
    assert detector.finding is not None
    (feature,) = detector.finding.features
    assert feature.name == "x"
    assert feature.direction == "up"
    assert feature.shift == pytest.approx(4 / np.sqrt(18), abs=0.2)
    assert feature.onset_at == 1400.0
    assert feature.contribution == 1.0
    assert feature.segments == ()


def test_psi_of_few_rows_fires_no_more_often_than_declared() -> None:
    """Windows of 200 rows, ten bins; the usual rule, 0.1, fires in a third of all null windows."""
    rng = np.random.default_rng(33)
    known = reference(
        np.column_stack([rng.normal(size=4000), np.zeros(4000)]), window=200, min_effect=0.0
    )
    scores, usual = [], []
    for _ in range(600):
        part, other = rng.normal(size=(2, 200))
        edges = numeric_edges(other)
        counts = [
            np.bincount(edges.searchsorted(values), minlength=10)[None] for values in (part, other)
        ]
        usual.append(psi(*counts, valid=np.ones((1, 10), dtype=np.bool_))[0])
        scores.append(judged(known, np.column_stack([part, np.zeros(200)]))["x"])
    values = np.array([score["score"] for score in scores])
    assert (np.array(usual) > 0.1).mean() > 0.25
    # One in twenty is what a threshold is made for, within what 600 windows can tell.
    assert (values >= scores[0]["threshold"]).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)
    assert (values >= 0.1).mean() < 0.01
    assert abs(values.mean()) < 0.01


def test_a_reference_is_the_same_after_storage() -> None:
    rng = np.random.default_rng(34)
    known = reference(rows(6000, rng), window=200)
    again = Reference.from_dict(json.loads(json.dumps(known.to_dict())))
    assert again.quantiles[0] is not None
    assert again.quantiles[0].at([0.5])[0] == pytest.approx(
        np.median(rows(6000, rng)[:, 0]), rel=0.1
    )
    assert again.correlation[0, 1] == pytest.approx(0.0, abs=0.1)
    reports = []
    for part in (known, again):
        detector, rows_rng = DriftDetector(part, window_rows=200, run_length=50), 35
        live = rows(2000, np.random.default_rng(rows_rng), shift=0.5)
        for start in range(0, 2000, 200):
            detector.update(live[start : start + 200], np.arange(200.0))
        reports.append((detector.report, detector.finding))
    assert reports[0] == reports[1]


@pytest.mark.parametrize("statistics", [("js",), ("ks", "chi_squared"), ("wasserstein", "psi")])
def test_any_statistic_may_make_the_evidence(statistics: tuple[str, ...]) -> None:
    rng = np.random.default_rng(36)
    past = rows(8000, rng)
    table = pa.table({"x": past[:, 0], "kind": past[:, 1].astype(np.int64)})
    known = build_reference(table, COLUMNS, window_rows=200, min_effect=0.1, statistics=statistics)
    detector = DriftDetector(known, window_rows=200, run_length=100)
    verdicts = []
    for index in range(40):
        drifted = index >= 30
        part = rows(200, rng, shift=4.0 * drifted, p=(0.2, 0.2, 0.6) if drifted else None)
        detector.update(part, index * 200.0 + np.arange(200))
        verdicts.append(detector.detected)
    assert not any(verdicts[:30])
    assert verdicts[-1]
    assert detector.finding is not None
    assert {feature.name for feature in detector.finding.features} == {"x", "kind"}
