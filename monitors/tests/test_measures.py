"""Metrics from sums are those of the rows, and their intervals hold all the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coalmine_monitors.performance._intervals import Level, rate_interval
from coalmine_monitors.performance._measures import measure
from coalmine_monitors.performance._scores import ScoreCell, Scores
from coalmine_monitors.performance._scoring import Scoring
from coalmine_monitors.performance._sums import ClassLayout, RegressionLayout
from coalmine_monitors.performance._tasks import Task

THREE = Task("classification", ("a", "b", "c"))
TWO = Task("classification", ("no", "yes"))


def class_sums(said: Any, truth: Any, *, parts: int = 1, sign: float = 1.0) -> Any:
    """The sums of rows, added up in parts."""
    layout = ClassLayout(said.shape[1])
    sums = np.zeros((1, layout.width))
    for part in np.array_split(np.arange(len(said)), parts):
        layout.add(
            sums,
            np.zeros(len(part), dtype=np.int64),
            answer=said[part].argmax(axis=1),
            truth=truth[part],
            said=said[part],
            lag=np.ones(len(part)),
            sign=np.full(len(part), sign),
        )
    return sums[0]


def regression_sums(answer: Any, truth: Any, *, shift: float = 0.0) -> Any:
    sums = np.zeros((1, RegressionLayout(shift).width))
    RegressionLayout(shift).add(
        sums,
        np.zeros(len(answer), dtype=np.int64),
        answer=answer,
        truth=truth,
        lag=np.ones(len(answer)),
        sign=np.ones(len(answer)),
    )
    return sums[0]


def rows(rng: Any, count: int, classes: int, *, sharp: float = 1.5) -> Any:
    """What a calibrated model says, and what is true."""
    logits = sharp * rng.standard_normal((count, classes))
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (said.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return said, truth


def area(score: Any, own: Any) -> float:
    """The AUC by its definition."""
    pairs = score[own][:, None] - score[~own][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@pytest.mark.parametrize("task", [TWO, THREE], ids=["binary", "multiclass"])
def test_classification_metrics_are_those_of_the_rows(task: Task) -> None:
    said, truth = rows(np.random.default_rng(1), 3000, len(task.classes))
    measures = measure(task, class_sums(said, truth))
    found = {name: measured.value for name, measured in measures.metrics.items()}
    answer = said.argmax(axis=1)
    hot = np.eye(len(task.classes))[truth]
    brier = ((said - hot) ** 2).sum(axis=1).mean() / (2 if task is TWO else 1)
    assert found["accuracy"] == pytest.approx((answer == truth).mean())
    assert found["brier"] == pytest.approx(brier, abs=1e-5)
    loss = -np.log(said[np.arange(3000), truth]).mean()
    assert found["log_loss"] == pytest.approx(loss, abs=1e-5)
    ranked = (1,) if task is TWO else (0, 1, 2)
    areas = [area(said[:, k], truth == k) for k in ranked]
    assert found["auc"] == pytest.approx(np.mean(areas), abs=2e-3)
    sure = said.max(axis=1)
    bins = np.clip(np.ceil(sure * 15).astype(int) - 1, 0, 14)
    gaps = [abs((sure - (answer == truth))[bins == b].sum()) for b in range(15)]
    assert found["calibration_error"] == pytest.approx(sum(gaps) / 3000, abs=1e-5)
    for k, name in enumerate(task.classes):
        hits = ((answer == k) & (truth == k)).sum()
        scores = measures.classes[name]
        assert scores.precision.value == pytest.approx(hits / (answer == k).sum())
        assert scores.recall.value == pytest.approx(hits / (truth == k).sum())
    each = [scores.f1.value for scores in measures.classes.values()]
    assert found["f1"] == pytest.approx(np.mean(each))


def test_regression_metrics_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(2)
    truth = 4 + 3 * rng.standard_normal(4000)
    truth[:10] = 0.0
    answer = truth + 0.5 + rng.standard_normal(4000)
    metrics = measure(
        Task("regression", shift=4.0), regression_sums(answer, truth, shift=4.0)
    ).metrics
    error = answer - truth
    expected = {
        "mae": abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "bias": error.mean(),
        "r2": 1 - (error**2).mean() / truth.var(),
        "mape": (abs(error[10:] / truth[10:])).mean(),
    }
    assert {name: measured.value for name, measured in metrics.items()} == pytest.approx(expected)
    for measured in metrics.values():
        assert measured.lower is not None
        assert measured.upper is not None
        assert measured.lower <= measured.value <= measured.upper


def test_sums_of_parts_are_the_sums_of_all_and_can_be_taken_back_exactly() -> None:
    said, truth = rows(np.random.default_rng(3), 1000, 3)
    whole = class_sums(said, truth)
    assert np.array_equal(whole, class_sums(said, truth, parts=7))
    assert not (whole + class_sums(said, truth, parts=3, sign=-1.0)).any()


def test_what_is_not_known_is_left_out_and_not_guessed() -> None:
    said, truth = rows(np.random.default_rng(4), 500, 3)
    truth[:50] = -1  # labels of no class: not right, and no more is to be told
    said[50:100] = np.nan
    layout = ClassLayout(3)
    sums = np.zeros((1, layout.width))
    answer = np.where(np.isnan(said).any(axis=1), 0, np.nan_to_num(said).argmax(axis=1))
    layout.add(
        sums,
        np.zeros(500, dtype=np.int64),
        answer=answer,
        truth=truth,
        said=said,
        lag=np.zeros(500),
        sign=np.ones(500),
    )
    metrics = measure(THREE, sums[0]).metrics
    assert metrics["accuracy"].value == pytest.approx((answer == truth).mean())
    good = slice(100, None)
    loss = -np.log(said[good][np.arange(400), truth[good]]).mean()
    assert metrics["log_loss"].value == pytest.approx(loss, abs=1e-5)
    assert measure(THREE, np.zeros(layout.width)).metrics == {}


def test_a_perfect_model_and_one_row_have_intervals_that_admit_doubt() -> None:
    said = np.tile([0.98, 0.02], (40, 1))
    said[:20] = said[:20, ::-1]
    metrics = measure(TWO, class_sums(said, said.argmax(axis=1))).metrics
    assert metrics["auc"].value == metrics["accuracy"].value == 1.0
    assert metrics["auc"].lower is not None
    assert metrics["accuracy"].lower is not None
    assert metrics["auc"].lower < 1
    assert 0.8 < metrics["accuracy"].lower < 1
    one = measure(TWO, class_sums(said[:1], np.array([1]))).metrics
    assert "auc" not in one
    assert one["log_loss"].lower is None
    assert one["accuracy"].lower is not None
    assert one["accuracy"].lower < 0.2


def truths(task: Task) -> dict[str, float]:
    """What very many rows say."""
    if task.kind == "classification":
        said, truth = rows(np.random.default_rng(5), 400_000, len(task.classes))
        found = measure(task, class_sums(said, truth)).metrics
        return {name: found[name].value for name in ("accuracy", "f1", "auc", "log_loss", "brier")}
    rng = np.random.default_rng(5)
    truth = rng.standard_normal(400_000)
    answer = 0.8 * truth + 0.5 * rng.standard_normal(400_000)
    found = measure(task, regression_sums(answer, truth)).metrics
    return {name: found[name].value for name in ("mae", "rmse", "bias", "r2")}


@pytest.mark.parametrize("task", [THREE, Task("regression")], ids=lambda task: task.kind)
def test_intervals_hold_at_every_look_at_a_stream(task: Task) -> None:
    """Of 60 streams, looked at 10 times each, at most 5 % may ever be wrong: by chance 7."""
    rng = np.random.default_rng(6)
    true = truths(task)
    wrong = dict.fromkeys(true, 0)
    for _ in range(60):
        sums, missed = 0.0, set()
        for _ in range(10):
            if task.kind == "classification":
                said, truth = rows(rng, 80, len(task.classes))
                sums = sums + class_sums(said, truth)
            else:
                truth = rng.standard_normal(50)
                sums = sums + regression_sums(0.8 * truth + 0.5 * rng.standard_normal(50), truth)
            found = measure(task, sums).metrics
            for name, value in true.items():
                low, high = found[name].lower, found[name].upper
                if low is not None and high is not None and not low <= value <= high:
                    missed.add(name)
        for name in missed:
            wrong[name] += 1
    assert max(wrong.values()) <= 7, wrong


def test_rows_that_are_alike_count_less() -> None:
    one = rate_interval([80.0], [100.0])
    alike = rate_interval([400.0], [500.0], level=Level(effect=5.0))
    assert one[0] == pytest.approx(alike[0])
    assert rate_interval([0.0], [0.0]) == (0.0, 1.0)


@pytest.mark.parametrize(("rows_of_a_block", "alike"), [(1, False), (20, False), (20, True)])
def test_rows_of_a_block_that_are_alike_count_for_fewer(rows_of_a_block: int, alike: bool) -> None:
    rng = np.random.default_rng(11)
    cells = {}
    for block in range(400):
        right = rng.random(1 if alike else rows_of_a_block) < 0.8
        sums = np.zeros(ClassLayout(2).width)
        sums[:2] = rows_of_a_block, right.mean() * rows_of_a_block
        cells[ScoreCell(block, "1", "stable")] = Scores(rows_of_a_block, sums)
    expected = rows_of_a_block if alike else 1
    effect = Scoring(TWO, cells).effect("stable")
    assert expected * 0.9 <= effect <= max(expected * 2, 1.2)
