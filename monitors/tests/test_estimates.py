"""Accuracy before the labels come: intervals that hold, and a flag that says when they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.signal import lfilter

from coalmine.modeldir import ModelCard
from coalmine_monitors.performance import Calibration, Expected

CLASSES = ("a", "b", "c")
CARD = ModelCard.model_validate(
    {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1], "columns": [{"name": "x"}]}],
        "outputs": [
            {
                "name": "label",
                "datatype": "INT64",
                "shape": [-1],
                "columns": [{"name": "label", "type": "categorical", "categories": CLASSES}],
            },
            {
                "name": "p",
                "datatype": "FP32",
                "shape": [-1, 3],
                "columns": [{"name": f"p_{name}"} for name in CLASSES],
            },
        ],
    }
)
#: Of the logits: at 0.5 the model is far too sure of itself, and needs the calibration.
TEMPERATURE = 0.5


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def stream(
    rows: int, rng: np.random.Generator, *, rho: float, shift: float = 0.0, wrong: float = 0.0
) -> pa.Table:
    """Autocorrelated rows; `shift` moves the features, `wrong` changes what follows from them."""
    noise = rng.standard_normal((rows, 3)) * np.sqrt(1 - rho**2)
    logits = 2 * lfilter([1], [1, -rho], noise, axis=0) + shift * np.array([0, 0.7, 0])
    truth = (softmax(logits).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    truth = np.where(rng.random(rows) < wrong, (truth + 1) % 3, truth)
    said = softmax(logits / TEMPERATURE).astype(np.float32)
    columns: dict[str, Any] = {f"p_{name}": said[:, index] for index, name in enumerate(CLASSES)}
    columns |= {"label": said.argmax(axis=1), "true_label": np.array(CLASSES)[truth]}
    return pa.table(columns)


def right(table: pa.Table) -> Any:
    truth = np.array(table.column("true_label").to_pylist())
    return np.array(CLASSES)[table.column("label").to_numpy()] == truth


def fitted(rng: np.random.Generator, *, rho: float, rows: int = 8000) -> Calibration:
    calibration = Calibration.fit(stream(rows, rng, rho=rho), CARD)
    assert calibration is not None
    return calibration


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_interval_holds_the_accuracy_that_labels_show_later(rho: float, shift: float) -> None:
    rng = np.random.default_rng(31)
    inside = []
    for _ in range(6):
        calibration = fitted(rng, rho=rho)
        live = stream(10_000, rng, rho=rho, shift=shift)
        chances, correct = calibration.chances(live), right(live)
        for start in range(0, len(chances), 500):
            part = chances[start : start + 500]
            expected = Expected(500, part.sum(), (part * (1 - part)).sum())
            estimate = calibration.estimate(expected)
            assert estimate is not None
            assert estimate.lower <= estimate.accuracy <= estimate.upper
            assert estimate.upper - estimate.lower < 0.25
            share = correct[start : start + 500].mean()
            inside.append(estimate.lower <= share <= estimate.upper)
    assert np.mean(inside) >= 0.9


def test_a_model_without_chances_or_a_reference_without_truth_gives_no_estimates() -> None:
    rng = np.random.default_rng(33)
    table = stream(2000, rng, rho=0.0)
    without = CARD.model_copy(update={"outputs": CARD.outputs[:1]})
    assert Calibration.fit(table, without) is None
    assert Calibration.fit(table.drop_columns(["true_label"]), CARD) is None
    assert Calibration.fit(table.slice(0, 100), CARD) is None
    assert fitted(rng, rho=0.0).estimate(Expected()) is None


def test_an_answer_without_a_known_class_has_no_chance() -> None:
    rng = np.random.default_rng(34)
    calibration = fitted(rng, rho=0.0)
    live = stream(4, rng, rho=0.0).to_pydict()
    live["label"] = [0, 7, None, 1]
    live["p_a"][0] = None
    chances = calibration.chances(pa.table(live))
    assert np.isnan(chances).tolist() == [True, True, True, False]


def test_a_model_that_is_never_wrong_has_an_interval_all_the_same() -> None:
    table = pa.table(
        {"p_a": [1.0] * 600, "p_b": [0.0] * 600, "p_c": [0.0] * 600, "label": [0] * 600}
        | {"true_label": ["a"] * 600}
    )
    calibration = Calibration.fit(table, CARD)
    assert calibration is not None
    estimate = calibration.estimate(Expected(100, 100.0, 0.0))
    assert estimate is not None
    assert estimate.accuracy == 1.0
    assert 0.9 < estimate.lower < 1.0


def rare(rows: int, rng: np.random.Generator, *, spread: float, single: bool) -> pa.Table:
    """A calibrated model of two classes, of which one comes to one row in seventy."""
    logit = -5 + 1.2 * spread * rng.standard_normal(rows)
    chance = 1 / (1 + np.exp(-logit))
    truth = np.array(["no", "yes"])[(rng.random(rows) < chance).astype(int)]
    scores = {"p": chance} if single else {"p_no": 1 - chance, "p": chance}
    return pa.table({**scores, "label": (chance > 0.5).astype(np.int64), "true_label": truth})


@pytest.mark.parametrize("single", [True, False])
def test_a_shift_to_rows_that_the_reference_has_few_of_is_within_the_interval(single: bool) -> None:
    scores = ["p"] if single else ["p_no", "p"]
    card = CARD.model_dump()
    label, chances = card["outputs"]
    label["columns"][0]["categories"] = ("no", "yes")
    chances |= {"shape": [-1, len(scores)], "columns": [{"name": name} for name in scores]}
    rng = np.random.default_rng(35)
    inside = []
    for _ in range(16):
        reference = rare(8000, rng, spread=1.0, single=single)
        calibration = Calibration.fit(reference, ModelCard.model_validate(card))
        assert calibration is not None
        live = rare(2000, rng, spread=2.0, single=single)
        answers = np.array(["no", "yes"])[live.column("label").to_numpy()]
        correct = answers == np.array(live.column("true_label").to_pylist())
        for part, share in zip(
            calibration.chances(live).reshape(-1, 500), correct.reshape(-1, 500), strict=True
        ):
            estimate = calibration.estimate(Expected(500, part.sum(), (part * (1 - part)).sum()))
            assert estimate is not None
            inside.append(estimate.lower <= share.mean() <= estimate.upper)
    # An isotonic curve alone: 0.75.
    assert np.mean(inside) >= 0.87


def test_what_is_said_of_the_other_classes_counts() -> None:
    """A model that is not sure enough: how often it is right follows from all it says, not one."""
    rng = np.random.default_rng(36)

    def underconfident(rows: int, shift: float) -> pa.Table:
        table = stream(rows, rng, rho=0.0, shift=shift).to_pydict()
        said = np.column_stack([table[f"p_{name}"] for name in CLASSES]) ** 0.25
        said /= said.sum(axis=1, keepdims=True)
        return pa.table(table | {f"p_{name}": said[:, i] for i, name in enumerate(CLASSES)})

    off = []
    for _ in range(4):
        calibration = Calibration.fit(underconfident(8000, 0.0), CARD)
        assert calibration is not None
        live = underconfident(8000, 3.0)
        off.append(calibration.chances(live).mean() - right(live).mean())
    assert abs(np.mean(off)) < 0.005
