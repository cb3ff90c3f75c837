"""The flag of estimates: false soon after labels mean something else, and hardly ever before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.signal import lfilter
from scipy.special import softmax

from coalmine.modeldir import ModelCard
from coalmine_monitors.performance import Calibration, EstimateCheck
from coalmine_monitors.performance._alternatives import FLIPS, ODDS, SCALES, Alternatives

FEATURES = 5
Change = Callable[["World", Any, Any], Any]


@dataclass
class World:
    """Autocorrelated rows, and a model that says of each class how likely it is."""

    rng: Any
    classes: int = 2
    rho: float = 0.6
    scale: float = 2.0

    def __post_init__(self) -> None:
        weights = self.rng.standard_normal((FEATURES, self.classes))
        self.weights = self.scale * weights / np.sqrt((weights**2).sum(axis=0))
        names = [f"c{index}" for index in range(self.classes)]
        self.card = ModelCard.model_validate(
            {
                "name": "m",
                "inputs": [
                    {"name": "x", "datatype": "FP32", "shape": [-1, 1], "columns": [{"name": "x"}]}
                ],
                "outputs": [
                    {
                        "name": "label",
                        "datatype": "INT64",
                        "shape": [-1],
                        "columns": [{"name": "label", "type": "categorical", "categories": names}],
                    },
                    {
                        "name": "p",
                        "datatype": "FP32",
                        "shape": [-1, self.classes],
                        "columns": [{"name": f"p_{name}"} for name in names],
                    },
                ],
            }
        )

    def features(self, rows: int, *, shift: float = 0.0) -> Any:
        noise = self.rng.standard_normal((rows + 100, FEATURES)) * np.sqrt(1 - self.rho**2)
        return lfilter([1], [1, -self.rho], noise, axis=0)[100:] + shift

    def draw(self, logits: Any) -> Any:
        chances = softmax(logits, axis=1).cumsum(axis=1)
        return (chances > self.rng.random((len(logits), 1))).argmax(axis=1)

    def table(self, features: Any, truth: Any) -> pa.Table:
        said = softmax(features @ self.weights, axis=1)
        columns = {f"p_c{index}": said[:, index] for index in range(self.classes)}
        truths = np.array([f"c{index}" for index in truth])
        return pa.table({**columns, "label": said.argmax(axis=1), "true_label": truths})

    def calibration(self, rows: int = 8000) -> Calibration:
        features = self.features(rows)
        table = self.table(features, self.draw(features @ self.weights))
        made = Calibration.fit(table, self.card)
        assert made is not None
        return made

    def feed(
        self, check: EstimateCheck, calibration: Calibration, features: Any, truth: Any
    ) -> Any:
        """Whether estimates are valid after each row."""
        table = self.table(features, truth)
        answers = table.column("label").to_numpy()
        seen = []
        rows = zip(calibration.chances(table), answers, truth, strict=True)
        for chance, answer, true in rows:
            check.update(chance=float(chance), correct=bool(answer == true), klass=int(answer))
            seen.append(check.valid)
        return np.array(seen)


def flipped(share: float) -> Change:
    def change(world: World, features: Any, truth: Any) -> Any:
        other = (truth + world.rng.integers(1, world.classes, len(truth))) % world.classes
        return np.where(world.rng.random(len(truth)) < share, other, truth)

    return change


def flipped_in_a_region(limit: float) -> Change:
    def change(world: World, features: Any, truth: Any) -> Any:
        return np.where(features[:, 1] > limit, (truth + 1) % world.classes, truth)

    return change


def turned(angle: float) -> Change:
    def change(world: World, features: Any, truth: Any) -> Any:
        beside = np.roll(world.weights, 1, axis=0)
        return world.draw(features @ (np.cos(angle) * world.weights + np.sin(angle) * beside))

    return change


def more_of_one_class_where(odds: float) -> Change:
    def change(world: World, features: Any, truth: Any) -> Any:
        logits = features @ world.weights
        logits[:, 1] += odds * (features[:, 0] > 0)
        return world.draw(logits)

    return change


def swapped(share: float) -> Change:
    def change(world: World, features: Any, truth: Any) -> Any:
        other = np.where(truth < 2, 1 - truth, truth)
        return np.where(world.rng.random(len(truth)) < share, other, truth)

    return change


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize(
    ("change", "classes", "loss"),
    [
        (flipped(0.2), 2, 0.08),
        (flipped_in_a_region(1.0), 2, 0.08),
        (turned(1.1), 2, 0.08),
        (more_of_one_class_where(3.0), 2, 0.03),
        (swapped(0.5), 4, 0.08),
        (turned(0.8), 4, 0.08),
    ],
    ids=["flips", "region", "boundary", "prior", "swapped", "boundary of four"],
)
def test_another_meaning_of_the_same_features_is_noticed_in_the_first_500_labels(
    change: Change, classes: int, loss: float, rho: float
) -> None:
    rng = np.random.default_rng(41)
    noticed = []
    for _ in range(5):
        world = World(rng, classes=classes, rho=rho)
        calibration = world.calibration()
        check = EstimateCheck(calibration)
        features = world.features(1000)
        assert world.feed(check, calibration, features, world.draw(features @ world.weights)).all()
        features = world.features(500)
        truth = change(world, features, world.draw(features @ world.weights))
        seen = world.feed(check, calibration, features, truth)
        table = world.table(features, truth)
        correct = table.column("label").to_numpy() == truth
        if loss <= calibration.chances(table).mean() - correct.mean() < 0.2:
            noticed.append(not seen.all())
    assert len(noticed) >= 3
    assert all(noticed)


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize(("classes", "rho"), [(2, 0.0), (2, 0.9), (5, 0.6)])
def test_estimates_that_are_right_are_hardly_ever_doubted(
    classes: int, rho: float, shift: float
) -> None:
    """Once in 12,500 rows is declared; of 24,000 not one, wherever the features go."""
    rng = np.random.default_rng(42)
    for _ in range(3):
        world = World(rng, classes=classes, rho=rho)
        calibration = world.calibration()
        features = world.features(8000, shift=shift)
        truth = world.draw(features @ world.weights)
        assert world.feed(EstimateCheck(calibration), calibration, features, truth).all()


def test_it_is_forgiven_when_labels_agree_again_and_not_before() -> None:
    rng = np.random.default_rng(43)
    world = World(rng)
    calibration = world.calibration()
    check = EstimateCheck(calibration)
    seen = []
    for share in (0.0, 0.2, 0.0):
        features = world.features(4000)
        truth = flipped(share)(world, features, world.draw(features @ world.weights))
        for rows in np.array_split(np.arange(4000), 7):
            seen.append(world.feed(check, calibration, features[rows], truth[rows]))
            restored = EstimateCheck(calibration)
            restored.restore(check.state())
            check = restored
    before, during, after = np.split(np.concatenate(seen), 3)
    assert before.all()
    assert not during[500:].any()
    assert not after[:400].any()
    assert after[2000:].all()


@pytest.mark.parametrize("classes", [2, 5])
def test_evidence_is_not_expected_to_grow_while_odds_are_off_by_what_is_tolerated(
    classes: int,
) -> None:
    kinds = len(FLIPS) + len(ODDS) + len(SCALES)
    every = Alternatives(classes, np.vstack([np.ones(kinds), np.zeros((classes, kinds))]))
    for chance in np.linspace(0.02, 0.99, 60):
        one, answer = np.array([chance]), np.array([0])
        right, wrong = (np.exp(every.evalues(one, np.array([hit]), answer)) for hit in (1.0, 0.0))
        for off in (-0.1, 0.0, 0.1):
            odds = chance / (1 - chance) * np.exp(off)
            expected = odds / (1 + odds) * right + 1 / (1 + odds) * wrong
            assert (expected <= 1 + 1e-9).all(), (chance, off, expected)


def test_rows_that_are_wrong_together_are_fewer_observations() -> None:
    """In bursts of 100 rows the model is right or wrong more often than it says."""
    rng = np.random.default_rng(44)
    chances = rng.uniform(0.6, 0.95, 20_000)
    burst = np.repeat(rng.choice([-0.15, 0.15], 200), 100)
    answers = rng.integers(0, 2, 20_000)
    fits = []
    for off in (0.0, burst):
        correct = (rng.random(20_000) < np.clip(chances + off, 0, 1)).astype(np.float64)
        fits.append(Alternatives.fit(chances, correct, answers, classes=2, window=500))
    alone, together = (made.power[0].max() for made in fits)
    assert alone > 0.7
    assert 0.0 < together < 0.5


def test_a_class_that_is_never_answered_and_many_classes_are_no_obstacle() -> None:
    rng = np.random.default_rng(45)
    chances = rng.uniform(0.5, 0.99, 5000)
    correct = (rng.random(5000) < chances).astype(np.float64)
    made = Alternatives.fit(chances, correct, rng.integers(0, 3, 5000), classes=800, window=125)
    assert not made.power[4:].any()
    assert 0 < made.size <= 4 * made.power.shape[1]
