"""What labels look like where an estimate of the accuracy is wrong, and how to tell.

Of every labelled row it was known how likely its answer was right. If classes follow from features
as they did, right and wrong answers are throws of such coins, whatever the features do meanwhile.
If they do not, the coins are others. Which, nobody knows, but the kinds are few: some share of the
classes is another one now (`FLIPS`: of all rows, a region, beyond a boundary that turned; most of
it is seen where the model was sure), or all odds are better or worse than they were (`ODDS`: other
shares of classes), or nearer to a guess (`SCALES`: noise, other features that matter), each
everywhere or where one class is answered. The ratio of the likelihoods under such an alternative
and under what was expected is an e-value: 1 at most, on average, as long as the estimate is right,
and large soon where it is wrong in that way or one like it. Errors where the model was sure weigh
most, which the number of right answers alone leaves out.

Sources: Wald, "Sequential tests of statistical hypotheses", 1945; Grünwald, de Heide and Koolen,
"Safe testing", 2024. Powers below 1 of likelihood ratios: Grünwald and van Ommen, "Inconsistency of
Bayesian inference for misspecified linear models", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

__all__ = ["FLIPS", "ODDS", "SCALES", "Alternatives"]

#: Shares of rows of which the class is another one.
FLIPS = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
#: Factors of the odds that an answer is right, as logarithms.
ODDS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
#: Factors of these logarithms: the model is less sure than it says, or surer.
SCALES = (0.25, 0.5, 0.7, 1.5)
#: Evidence against an alternative, in nats, that so many rows of the reference hold: a smaller one
#: is none, since no window of labels tells it from luck, and every calibration is off by a little.
_TOLD, _TOLD_ROWS = 3.0, 500
#: And that all of them hold: six standard errors, so that what the calibration is off by, three of
#: them, is nearer to the truth than to the alternative.
_REFERENCE = 18.0
#: How far the logarithm of the odds may be off: no calibration is exact, least of all where the
#: traffic moves to.
_TOLERATED = 0.1
#: Share of labels that may always be wrong where a model is sure.
_MISTAKES = 0.01
#: Nearest that a chance is to 0 or 1, where its odds are taken.
_SURE = 1e-6

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Alternatives:
    """Ways to be wrong that a reference would have shown; `size` of them."""

    classes: int
    power: Floats
    """[scopes, kinds]: of its likelihood ratio, 0 of those that are left out.

    Below 1 where rows of the reference are wrong together more often than coins are. Scopes are all
    rows, and those by the class that was answered.
    """

    @classmethod
    def fit(
        cls, chances: Floats, correct: Floats, answers: Indices, *, classes: int, window: int
    ) -> Alternatives:
        """From chances [rows] that had not seen their row, and what came, in the order of time.

        `window` is the number of rows that are wrong together.
        """
        whole = len(chances) // window * window
        cells = np.arange(whole) // window * classes + answers[:whole]
        windows = whole // window

        def by_class(values: Floats) -> Floats:
            return np.bincount(answers, values, classes).astype(np.float64)

        def by_scope(values: Floats) -> Floats:
            """Of all rows, then by class: the last axis of values [..., classes]."""
            return np.concatenate([values.sum(axis=-1, keepdims=True), values], axis=-1)

        power, told = [], []
        right, wrong = _logs(chances, classes)
        for better, worse in zip(right.T, wrong.T, strict=True):
            weight = better - worse
            surprise = weight * (correct - chances)
            sums: Floats = np.bincount(cells, surprise[:whole], windows * classes).astype(
                np.float64
            )
            usual = by_scope(by_class(weight**2 * chances * (1 - chances)))
            off = (by_scope(sums.reshape(windows, classes)) ** 2).sum(axis=0) * len(chances) / whole
            effect = np.maximum(off / np.maximum(usual, 1e-12), 1.0)
            power.append(1 / effect)
            told.append(-by_scope(by_class(np.where(correct > 0, better, worse))) / effect)
        enough = max(_TOLD * len(chances) / _TOLD_ROWS, _REFERENCE)
        return cls(classes, np.where(np.array(told).T >= enough, np.array(power).T, 0.0))

    @property
    def size(self) -> int:
        """How many there are."""
        return int((self.power > 0).sum())

    def evalues(self, chances: Floats, correct: Floats, answers: Indices) -> Floats:
        """Logarithms [size] of the e-values of some labelled rows together."""
        right, wrong = _logs(chances, self.classes)
        seen = np.where(correct[:, None] > 0, right, wrong)
        by_class = np.zeros((self.classes, seen.shape[1]))
        np.add.at(by_class, answers, seen)
        sums = np.vstack([by_class.sum(axis=0), by_class]) * self.power
        return np.asarray(sums[self.power > 0])


def _logs(chances: Floats, classes: int) -> tuple[Floats, Floats]:
    """Logarithms [rows, kinds] of the likelihood ratios of a right and of a wrong answer.

    Against those of the chances that are tolerated which are nearest to the alternative.
    """
    odds = logit(np.clip(chances, _SURE, 1 - _SURE))[:, None]
    # Where an answer is a guess, another class is as good.
    guess, flips, usual = -np.log(max(classes - 1, 1)), np.array(FLIPS), expit(odds)
    flipped = logit(usual * (1 - flips) + (1 - usual) * flips / max(classes - 1, 1))
    scaled = guess + (odds - guess) * np.array(SCALES)
    others = np.hstack([flipped, odds + np.array(ODDS), scaled])
    near, sure = odds + np.clip(others - odds, -_TOLERATED, _TOLERATED), logit(1 - _MISTAKES)
    near = np.where(
        others < odds,
        np.maximum(others, np.minimum(near, sure)),
        np.minimum(others, np.maximum(near, -sure)),
    )
    return log_expit(others) - log_expit(near), log_expit(-others) - log_expit(-near)
