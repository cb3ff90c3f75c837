"""Accuracy before the labels come: the model's own confidence, calibrated on its reference.

A classifier that says 0.9 and is right nine times in ten tells its accuracy without a label. What
it says is calibrated first (`_curve.py`) on the reference, whose true classes are known; the mean
of the calibrated confidence over some rows is then the accuracy to expect of them (confidence-based
performance estimation, CBPE).

That is true as long as the classes still follow from the features as they did: a shift of the
features moves the confidence too, and is accounted for; another meaning of the same features
(concept drift) is not seen at all. So every estimate comes with an interval, which holds while
nothing of that kind happens, and with whether the labels that came since agree (`_check.py`).

Sources: Guillory et al., "Predicting with confidence on unseen distributions", 2021; Bialek et al.,
"Estimating model performance under covariate shift without labels", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from coalmine.modeldir import Column, ModelCard
from coalmine_monitors._rows import matrix
from coalmine_monitors.performance._alternatives import Alternatives
from coalmine_monitors.performance._curve import best_curve, temper, temperature_of

__all__ = ["Calibration", "Estimate", "Expected"]

#: The column of a reference that holds the true class.
TRUE_LABEL = "true_label"
#: Windows of the reference from which the interval is made. Neighbouring rows are alike, so it
#: takes windows rather than rows to say how far an estimate is off.
_WINDOWS = 40
_SMALLEST_WINDOW = 50
_SMALLEST_REFERENCE = 500
_LEVEL = 0.95
#: Rows that may always be off by luck, however sure the model was.
_LUCK = 0.25

Floats = NDArray[np.float64]


class Expected(NamedTuple):
    """What to expect of some rows: sums of the chance to be right, and of its variance."""

    rows: int = 0
    right: float = 0.0
    variance: float = 0.0

    def plus(self, other: Expected) -> Expected:
        """Both together."""
        return Expected(
            rows=self.rows + other.rows,
            right=self.right + other.right,
            variance=self.variance + other.variance,
        )


class Estimate(NamedTuple):
    """An accuracy with its 95 % interval."""

    accuracy: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Calibration:
    """From what a model says of a row to the chance that it is right."""

    classes: Column
    scores: tuple[Column, ...]
    """One column per class, in the order of the classes; or one, of two: that of the second."""

    temperature: float
    """Of the chances, before `said` is read off them."""

    said: Floats
    right: Floats
    """The chance to be right where the model says `said`, rising; linear in between."""

    effect: float
    """How much more often than independent rows the rows of a window are wrong together."""

    error: float
    """Standard error of the calibration itself."""

    quantile: float

    alternatives: Alternatives
    """How an estimate is wrong, if it is."""

    @classmethod
    def fit(cls, reference: pa.Table, card: ModelCard) -> Calibration | None:
        """Calibrate on a reference in time order; None if its model says no chances.

        That takes an output of one class, another with one number per class, and true classes.
        """
        found = _outputs(card)
        if found is None or TRUE_LABEL not in reference.schema.names:
            return None
        classes, scores = found
        truth = matrix(
            pa.table({classes.name: reference.column(TRUE_LABEL).cast(pa.string())}), (classes,)
        )[:, 0]
        temperature = temperature_of(_chances(reference, scores), truth)
        said, answer = _said(reference, classes, scores, temperature=temperature)
        known = np.isfinite(said) & np.isfinite(truth)
        said, correct = said[known], (answer == truth)[known].astype(np.float64)
        if len(said) < _SMALLEST_REFERENCE:
            return None
        size = max(len(said) // _WINDOWS, _SMALLEST_WINDOW)
        windows = len(said) // size
        curve, held_out = best_curve(said, correct)
        expected = held_out[: windows * size].reshape(windows, size)
        off = (correct[: windows * size].reshape(windows, size) - expected).mean(axis=1)
        usual = float((expected * (1 - expected)).mean()) / size
        effect = max(float((off**2).mean()) / max(usual, 1e-12), 1.0)
        return cls(
            classes=classes,
            scores=scores,
            temperature=temperature,
            said=curve[0],
            right=curve[1],
            effect=effect,
            error=float(np.sqrt(effect * usual * size / len(said))),
            quantile=float(stats.t.ppf((1 + _LEVEL) / 2, windows - 1)),
            alternatives=Alternatives.fit(
                held_out,
                correct,
                answer[known].astype(np.int64),
                classes=len(classes.categories or ()),
                window=size,
            ),
        )

    def chances(self, rows: pa.RecordBatch | pa.Table) -> Floats:
        """The chance [rows] that each answer is right; NaN where the model did not say."""
        said, _ = _said(rows, self.classes, self.scores, temperature=self.temperature)
        return np.asarray(np.interp(said, self.said, self.right))

    def estimate(self, expected: Expected) -> Estimate | None:
        """The accuracy to expect; None of no rows."""
        if not expected.rows:
            return None
        accuracy = expected.right / expected.rows
        half = self.quantile * self._deviation(expected) / expected.rows
        return Estimate(accuracy, max(accuracy - half, 0.0), min(accuracy + half, 1.0))

    def _deviation(self, expected: Expected) -> float:
        """Standard deviation of the number of right answers; one may always be off by luck."""
        chance = max(self.effect * expected.variance, _LUCK)
        return float(np.sqrt(chance + (expected.rows * self.error) ** 2))


def _outputs(card: ModelCard) -> tuple[Column, tuple[Column, ...]] | None:
    classes = [column for column in card.output_columns() if column.type == "categorical"]
    if len(classes) != 1:
        return None
    count = len(classes[0].categories or ())
    for tensor in card.outputs:
        numeric = all(column.type == "numeric" for column in tensor.columns)
        fits = len(tensor.columns) == count or (len(tensor.columns), count) == (1, 2)
        if numeric and fits and tensor.datatype.startswith("FP"):
            return classes[0], tensor.columns
    return None


def _chances(rows: pa.RecordBatch | pa.Table, scores: tuple[Column, ...]) -> Floats:
    """What the model says of each class [rows, classes]."""
    said = matrix(rows, scores)
    return said if len(scores) > 1 else np.column_stack([1 - said, said])


def _said(
    rows: pa.RecordBatch | pa.Table,
    classes: Column,
    scores: tuple[Column, ...],
    *,
    temperature: float,
) -> tuple[Floats, Floats]:
    """What the model says of the class it answers, and that class's index [rows]."""
    answer = matrix(rows, (classes,))[:, 0]
    chances = temper(_chances(rows, scores), temperature)
    known = np.isfinite(answer) & (answer >= 0) & (answer < chances.shape[1])
    index = np.where(known, answer, 0).astype(np.int64)
    said = chances[np.arange(len(index)), index]
    return np.where(known, said, np.nan), answer
