"""True shares from predicted ones: right where only the shares change, refused where unknowable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coalmine.modeldir import Column
from coalmine_monitors.label_shift import BlackBoxShift, reference_shift

CLASSES = ("a", "b", "c")
CONFUSED = np.array([[0.9, 0.1, 0.05], [0.06, 0.8, 0.15], [0.04, 0.1, 0.8]])


def predictions(shares: Any, rows: int, rng: np.random.Generator) -> Any:
    """True and predicted classes [rows]."""
    truth = rng.choice(3, p=shares, size=rows)
    answers = np.array([rng.choice(3, p=CONFUSED[:, klass]) for klass in truth])
    return truth, answers


def fitted(rng: np.random.Generator, rows: int = 3000) -> BlackBoxShift:
    truth, answers = predictions([0.7, 0.2, 0.1], rows, rng)
    table = np.bincount(answers * 3 + truth, minlength=9).reshape(3, 3)
    return BlackBoxShift.fit(table, classes=CLASSES)


def test_the_interval_has_the_true_shares_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(41)
    inside, naive = 0, 0
    shares = np.array([0.3, 0.2, 0.5])
    for _ in range(60):
        shift = fitted(rng, 1000)
        _, answers = predictions(shares, 400, rng)
        counts = np.bincount(answers, minlength=3)
        estimate = shift.estimate(counts)
        assert estimate is not None
        assert estimate.share.sum() == pytest.approx(1)
        assert estimate.explained
        inside += int(((estimate.lower <= shares) & (shares <= estimate.upper)).sum())
        naive += int((np.abs(counts / 400 - shares) <= (estimate.upper - estimate.lower) / 2).sum())
    assert inside / 180 >= 0.92
    assert naive < inside


def test_a_matrix_that_cannot_be_inverted_is_refused_with_the_classes_that_are_alike() -> None:
    alike = np.array([[900, 5, 5], [50, 500, 480], [50, 495, 515]])
    shift = BlackBoxShift.fit(alike, classes=CLASSES)
    assert "b from c" in shift.refused
    assert "condition number" in shift.refused
    assert shift.estimate(np.array([100, 100, 100])) is None


def test_a_class_that_the_reference_hardly_has_is_refused_by_name() -> None:
    shift = BlackBoxShift.fit(np.diag([500, 400, 3]), classes=CLASSES)
    assert shift.refused.endswith("of class c")
    assert shift.estimate(np.array([100, 100, 100])) is None


def test_predictions_that_no_shares_explain_are_told() -> None:
    shift = fitted(np.random.default_rng(42))
    only = shift.estimate(np.array([0, 1000, 0]))  # class b itself is predicted so in 80 % only
    assert only is not None
    assert not only.explained
    assert only.share.min() >= 0


def test_a_class_never_predicted_may_still_be_there() -> None:
    shift = BlackBoxShift.fit(np.diag([500, 400, 300]), classes=CLASSES)
    estimate = shift.estimate(np.array([60, 40, 0]))
    assert estimate is not None
    assert estimate.upper[2] > 0
    assert shift.estimate(np.array([3, 2, 1])) is None, "too few to say anything"


@pytest.mark.parametrize("named", [True, False])
def test_the_confusions_come_from_the_reference_and_swings_widen_the_interval(named: bool) -> None:
    rng = np.random.default_rng(43)
    label = Column(name="label", type="categorical", categories=CLASSES)
    parts = [predictions(shares, 200, rng) for shares in [[0.9, 0.05, 0.05], [0.5, 0.3, 0.2]] * 10]
    truth = np.concatenate([part[0] for part in parts])
    answers = np.concatenate([part[1] for part in parts])
    names = [CLASSES[klass] if named else str(klass) for klass in truth]
    names[5] = "nobody knows"
    table = pa.table({"label": answers, "true_label": pa.array([None, *names[1:]], pa.string())})
    shift = reference_shift(table, label)
    assert shift is not None
    assert shift.labelled.sum() == 3998
    assert shift.inflation > 3
    steady = table.take(rng.permutation(4000))
    calm = reference_shift(steady, label)
    assert calm is not None
    assert calm.inflation < 2
    assert reference_shift(table.drop_columns(["true_label"]), label) is None
