"""What an incident is about: a metric that is a mean over rows, and how far it may get worse.

The test of lost accuracy bets on means of values in [0, 1], of which more is better. A loss becomes
such a value by its distance from a cap; what is beyond the cap counts as the cap, which makes a bad
stream look better and never a good one worse, so that the declared run length holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coalmine.modeldir import ModelCard
from coalmine.spec import PerformanceSpec
from coalmine_monitors.performance._join import JoinedRow
from coalmine_monitors.performance._tasks import Task

__all__ = ["AlarmMetric", "Objective", "objective_of", "suited_metric"]

AlarmMetric = Literal["accuracy", "brier", "log_loss", "mae", "rmse"]

#: The cap on a loss, in times the loss that is too much.
_CAP = 5.0
_SMALLEST = 1e-7
#: What is too much, where nobody said it: in the metric's unit, or of errors in the answers' own
#: unit the part of what the evaluation found.
_MARGIN, _PART = 0.03, 0.1


@dataclass(frozen=True)
class Objective:
    """A metric with its value at evaluation, and how much worse opens an incident."""

    metric: AlarmMetric
    baseline: float
    margin: float

    @property
    def threshold(self) -> float:
        """What the metric must not be worse than."""
        return self.baseline - self.margin if self.metric == "accuracy" else self._most

    @property
    def _most(self) -> float:
        return self.baseline + self.margin

    @property
    def _cap(self) -> float:
        """Of the loss of one row: of RMSE the squared error."""
        if self.metric == "brier":
            return 2.0
        return _CAP * (self._most**2 if self.metric == "rmse" else self._most)

    def goodness(self, loss: float) -> float:
        """A row's loss as a value in [0, 1], of which more is better."""
        return 1 - min(loss, self._cap) / self._cap

    def good(self, value: float) -> float:
        """The mean goodness of rows whose metric is `value`."""
        if self.metric == "accuracy":
            return value
        return self.goodness(value**2 if self.metric == "rmse" else value)

    def shown(self, goodness: float) -> float:
        """The metric of rows with a mean goodness."""
        if self.metric == "accuracy":
            return goodness
        loss = self._cap * (1 - goodness)
        return math.sqrt(loss) if self.metric == "rmse" else loss

    def of(self, row: JoinedRow, task: Task | None) -> float | None:
        """The goodness of a labelled row; None if the metric says nothing of it."""
        if self.metric == "accuracy":
            return None if row.correct is None else float(row.correct)
        loss = None if task is None else _loss(self.metric, row, task)
        return None if loss is None else self.goodness(loss)


def suited_metric(card: ModelCard, spec: PerformanceSpec) -> AlarmMetric:
    """What an incident of a model is about."""
    if spec.metric is not None:
        return spec.metric
    if any(column.type == "categorical" for column in card.output_columns()):
        return "accuracy"
    return "rmse" if "rmse" in card.metrics else "mae"


def objective_of(card: ModelCard, spec: PerformanceSpec) -> Objective | None:
    """What a model is held to; None if its evaluation, or its margin, does not say."""
    metric = suited_metric(card, spec)
    baseline = card.metrics.get(metric)
    if baseline is None:
        return None
    usual = _PART * baseline if metric in ("mae", "rmse") else _MARGIN
    margin = usual if spec.margin is None else spec.margin
    # Of errors that were none at all a tenth is no margin; of accuracy 1 is all of it.
    usable = margin > 0 and (metric != "accuracy" or margin < 1)
    return Objective(metric, baseline, margin) if usable else None


def _loss(metric: AlarmMetric, row: JoinedRow, task: Task) -> float | None:
    if metric in ("mae", "rmse"):
        if row.value is None:
            return None
        try:
            error = abs(row.value - float(row.label))
        except ValueError:
            return None
        return (error if metric == "mae" else error**2) if math.isfinite(error) else None
    truth = task.class_of(row.label) if row.said is not None else -1
    if truth < 0 or row.said is None:
        return None
    said = np.frombuffer(row.said, dtype=np.float32).astype(np.float64)
    if not np.isfinite(said).all():
        return None
    if metric == "log_loss":
        return float(-np.log(max(said[truth], _SMALLEST)))
    brier = float((said**2).sum() - 2 * said[truth] + 1)
    return brier / 2 if len(said) == 2 else brier
