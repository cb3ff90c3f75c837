"""Poisoned label files, through the collector's log and the real steps: never a worse model.

There is no drift here, so the champion cannot be beaten by much, and labels are all that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coalmine.apps.ev_battery import CLASSES
from coalmine.apps.ev_battery.steps import _common as steps_common
from coalmine.apps.ev_battery.steps import _model as steps_model
from coalmine.retraining import DataInvalid, RetrainingError, learning

from .fleet import Stage, retrain


def accuracy(stage: Stage, directory: Path) -> float:
    """Of a model, on uploads that nobody has learned from."""
    said, _ = learning.Network(directory / "model.onnx").predict(stage.fresh_features)
    return float((said == stage.fresh_truth).mean())


def flipped(share: float, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """That share of the labels is any other class."""

    def poison(truth: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(seed)
        other = (truth + rng.integers(1, len(CLASSES), len(truth))) % len(CLASSES)
        return np.where(rng.random(len(truth)) < share, other, truth)

    return poison


def swapped(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """That share of `normal` and `capacity_fade` is called the other."""
    first, second = CLASSES.index("normal"), CLASSES.index("capacity_fade")

    def poison(truth: np.ndarray) -> np.ndarray:
        hit = np.random.default_rng(1).random(len(truth)) < share
        found = np.where(hit & (truth == first), second, truth)
        return np.where(hit & (truth == second), first, found)

    return poison


def rotated(truth: np.ndarray) -> np.ndarray:
    """Every class is called the next, as by a list in another order."""
    return (truth + 1) % len(CLASSES)


def all_normal(truth: np.ndarray) -> np.ndarray:
    """Somebody filled the column down."""
    return np.zeros_like(truth)


def written_off(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """That share of the faults, of every kind, is called `normal`: nobody looked."""

    def poison(truth: np.ndarray) -> np.ndarray:
        hit = np.random.default_rng(2).random(len(truth)) < share
        return np.where(hit, CLASSES.index("normal"), truth)

    return poison


def renamed(truth: np.ndarray) -> np.ndarray:
    """One class alone is called another."""
    fade, short = CLASSES.index("capacity_fade"), CLASSES.index("internal_short")
    return np.where(truth == fade, short, truth)


def worsening(truth: np.ndarray) -> np.ndarray:
    """A fifth is any other class, none at first and 40 % at last."""
    hit = np.random.default_rng(3).random(len(truth)) < np.linspace(0.0, 0.4, len(truth))
    return np.where(hit, flipped(1.0)(truth), truth)


def in_the_heat(stage: Stage) -> np.ndarray:
    """The hottest fifth of all rows is any other class: one segment alone."""
    heat = stage.features[:, steps_common.FEATURE_NAMES.index("temperature_mean")]
    return np.where(heat > np.nanquantile(heat, 0.8), flipped(1.0)(stage.truth), stage.truth)


POISONS = {
    "flipped 10 %": flipped(0.1),
    "flipped 25 %": flipped(0.25),
    "flipped 60 %": flipped(0.6),
    "swapped 30 %": swapped(0.3),
    "swapped 70 %": swapped(0.7),
    "swapped": swapped(1.0),
    "rotated": rotated,
    "all normal": all_normal,
    "renamed": renamed,
    "faults written off 20 %": written_off(0.2),
    "faults written off 40 %": written_off(0.4),
    "worse and worse": worsening,
}
#: What the champion's certainty gives away, before anything is trained.
CAUGHT = {
    *("flipped 25 %", "flipped 60 %", "swapped 70 %", "swapped", "rotated", "all normal"),
    "renamed",
    "faults written off 40 %",
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", sorted(set(POISONS) - CAUGHT))
def test_a_poisoned_file_never_promotes_a_worse_model(
    stage: Stage, tmp_path: Path, kind: str
) -> None:
    labels = [CLASSES[index] for index in POISONS[kind](stage.truth)]
    decision, candidate = retrain(stage, tmp_path, labels)
    champion = accuracy(stage, stage.state / "models" / "1")
    assert decision == "reject" or accuracy(stage, candidate) > champion


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_poisoned_segment_never_promotes_a_worse_model(stage: Stage, tmp_path: Path) -> None:
    decision, candidate = retrain(stage, tmp_path, [CLASSES[i] for i in in_the_heat(stage)])
    champion = accuracy(stage, stage.state / "models" / "1")
    assert decision == "reject" or accuracy(stage, candidate) > champion


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_region_that_is_called_another_class_waits_for_a_person(
    stage: Stage, tmp_path: Path
) -> None:
    """What looks like a new world to the holdout, since no share and no place gives it away."""
    heat = stage.features[:, steps_common.FEATURE_NAMES.index("temperature_mean")]
    normal = stage.truth == CLASSES.index("normal")
    hottest = normal & (heat > np.nanquantile(heat[normal], 0.8))
    labels = np.where(hottest, CLASSES.index("cooling_failure"), stage.truth)
    decision, candidate = retrain(stage, tmp_path, [CLASSES[index] for index in labels])
    reasons = steps_model.decision_of(tmp_path / "report").reasons
    assert decision == "reject"
    assert [reason.partition(" (")[0] for reason in reasons] == [
        "worse than the champion on the labels that judged it, where inputs are as they were then"
    ]
    assert "class normal: accuracy 0." in reasons[0]
    assert accuracy(stage, candidate) < accuracy(stage, stage.state / "models" / "1")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", sorted(CAUGHT))
def test_a_mixed_up_file_is_not_learned_from(stage: Stage, tmp_path: Path, kind: str) -> None:
    labels = [CLASSES[index] for index in POISONS[kind](stage.truth)]
    with pytest.raises(DataInvalid, match=r"Labels against the champion: .* it\b") as error:
        retrain(stage, tmp_path, labels)
    assert error.value.report.startswith("# Labels against the champion: failed")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_labels_of_another_model_are_named(stage: Stage, tmp_path: Path) -> None:
    labels = [CLASSES[index] for index in stage.truth]
    labels[::5] = ["broken seat"] * len(labels[::5])
    with pytest.raises(RetrainingError, match=r"are no class of the model: 'broken seat' \(\d+\)"):
        retrain(stage, tmp_path, labels)


def test_a_few_labels_that_are_no_class_are_left_out() -> None:
    import pyarrow as pa

    rows = pa.table({"true_label": ["a"] * 98 + ["what?", None]})
    kept = learning.leave_out_unknown(rows, ("a", "b")).column("true_label")
    assert (kept.null_count, kept.to_pylist()[:98]) == (2, ["a"] * 98)


def answered(
    truth: np.ndarray, said: np.ndarray, *, at: np.ndarray | float = 0.0, sure: float = 0.95
) -> learning.Answered:
    """Uploads of five rows; `at` moves the first of two features."""
    features = np.random.default_rng(len(truth)).normal(size=(len(truth), 2))
    features[:, 0] += at
    groups = np.array([f"{len(truth)}-{row // 5}" for row in range(len(truth))])
    return learning.Answered(truth, said, np.full(len(truth), sure), features, groups)


def test_a_class_that_is_contradicted_where_it_always_lay_is_mixed_up() -> None:
    said = np.repeat([0, 1], 200)
    taught = answered(said[::2], said[::2])
    for share in (110, 200):
        mixed = np.where(np.arange(400) % 200 < share, 1, said)
        with pytest.raises(DataInvalid, match=f"{share} of 200 rows that are surely 'a' to it are"):
            learning.check_labels(answered(mixed, said), taught=taught, classes=("a", "b"))
        unsure = answered(mixed, said, sure=0.6)
        learning.check_labels(unsure, taught=taught, classes=("a", "b"))
    nothing = answered(np.full(400, -1), said)
    learning.check_labels(nothing, taught=taught, classes=("a", "b"))


@pytest.mark.parametrize("share", [110, 200])
@pytest.mark.parametrize("uploads", ["of five rows", "one"])
def test_a_class_that_is_contradicted_elsewhere_is_a_changed_world(
    share: int, uploads: str
) -> None:
    said = np.repeat([0, 1], [200, 400])
    hit = np.arange(600) < share
    changed = answered(np.where(hit, 1, said), said, at=np.where(hit, 3.0, 0.0))
    if uploads == "one":  # a file of rows in one request
        changed = dataclasses.replace(changed, groups=np.full(600, "q"))
    learning.check_labels(changed, taught=answered(said[::2], said[::2]), classes=("a", "b"))


def test_labels_that_contradict_nearly_all_are_for_a_person_wherever_they_lie() -> None:
    said = np.repeat([0, 1], 200)
    with pytest.raises(DataInvalid, match="contradict 400 of 400 answers that it is sure of"):
        learning.check_labels(
            answered(1 - said, said, at=3.0),
            taught=answered(said[::2], said[::2]),
            classes=("a", "b"),
        )


def test_labels_that_contradict_most_classes_a_little_are_mixed_up() -> None:
    """A drift contradicts the champion within one class, or two; a careless file everywhere."""
    names = ("a", "b", "c", "d", "e")
    said = np.repeat(np.arange(5), 100)
    taught = answered(said[::2], said[::2])

    def wrong(classes: int) -> learning.Answered:
        hit = (np.arange(500) % 100 < 28) & (said > 0) & (said <= classes)
        return answered(np.where(hit, 0, said), said)

    learning.check_labels(wrong(2), taught=taught, classes=names)
    with pytest.raises(DataInvalid, match="in most classes at once: 'b' 28%, 'c' 28%, 'd' 28%"):
        learning.check_labels(wrong(3), taught=taught, classes=names)
    # Of two classes a change of the world may move both.
    both = np.where(np.arange(200) % 100 < 28, 1 - said[:200], said[:200])
    learning.check_labels(answered(both, said[:200]), taught=taught, classes=("a", "b"))
