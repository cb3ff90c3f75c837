"""Labelled rows as sums, from which every metric follows: mergeable, and without the rows.

The sums of two stretches of time, or of two processes, are added; a corrected label is taken back
by subtraction. For classification all are whole numbers (losses in millionths), so that no order
of adding up gives another result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.performance._tasks import MAX_CLASSES, Task

__all__ = ["AUC_BINS", "BINS", "MICRO", "ClassLayout", "RegressionLayout", "layout_of"]

#: Bins of confidence, for the calibration error. Source: Guo et al., 2017.
BINS = 15
#: Bins of a class's chance, even in its logit: resolution lies where confident models answer.
AUC_BINS = 128
_LOGIT = 12.0
_EDGES = np.linspace(-_LOGIT, _LOGIT, AUC_BINS - 1)
#: Classes beyond these get no ranking of their own: it takes 2 kB each.
MAX_RANKED = 20
MICRO = 1e6
#: A chance of 0 for what came true would be an infinite loss.
_SMALLEST = 1e-7

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClassLayout:
    """Where each sum of a classification stands."""

    classes: int

    #: Rows, right ones, lag in milliseconds, rows with chances, Brier, log loss, its square.
    HEAD = 7

    @property
    def counted(self) -> int:
        """Classes counted one by one; 0 of too many."""
        return self.classes if self.classes <= MAX_CLASSES else 0

    @property
    def ranked(self) -> tuple[int, ...]:
        """Classes whose chance is ranked: of two, the second says it all."""
        if self.classes == 2:
            return (1,)
        return tuple(range(self.classes)) if self.classes <= MAX_RANKED else ()

    @property
    def calibration(self) -> int:
        """Where [BINS, 4] begins: rows, confidence, right ones, squared differences."""
        return self.HEAD + 3 * self.counted

    @property
    def ranks(self) -> int:
        """Where [ranked, 2, AUC_BINS] begins: rows of other classes, and of the class."""
        return self.calibration + 4 * BINS

    @property
    def width(self) -> int:
        """How many sums there are."""
        return self.ranks + len(self.ranked) * 2 * AUC_BINS

    def add(
        self,
        sums: Floats,
        where: Ints,
        *,
        answer: Ints,
        truth: Ints,
        said: Floats,
        lag: Floats,
        sign: Floats,
    ) -> None:
        """Add rows [n] to `sums` [cells, width], each to its cell `where` [n], `sign` times.

        `answer` and `truth` are classes, -1 unknown; `said` the chances [n, classes], NaN unknown;
        `lag` in seconds.
        """

        def put(at: Ints | int, values: Floats, rows: Ints | slice = slice(None)) -> None:
            flat = where[rows] * self.width + at
            np.add.at(sums.reshape(-1), flat, np.round(values) * sign[rows])

        right = (answer == truth).astype(np.float64)
        put(0, np.ones(len(where)))
        put(1, right)
        put(2, lag * 1e3)
        if self.counted:
            for offset, of, rows in (
                (0, answer, np.flatnonzero((answer == truth) & (answer >= 0))),
                (1, answer, np.flatnonzero(answer >= 0)),
                (2, truth, np.flatnonzero(truth >= 0)),
            ):
                put(self.HEAD + offset * self.counted + of[rows], np.ones(len(rows)), rows)
        # A label of no class was certainly not foreseen, but by how much is not to be told.
        known = np.flatnonzero((truth >= 0) & (answer >= 0) & np.isfinite(said).all(axis=1))
        if not known.size:
            return
        self._add_chances(put, known, answer=answer[known], truth=truth[known], said=said[known])

    def _add_chances(
        self, put: object, rows: Ints, *, answer: Ints, truth: Ints, said: Floats
    ) -> None:
        assert callable(put)
        at = np.arange(len(rows))
        hit = said[at, truth]
        brier = (said**2).sum(axis=1) - 2 * hit + 1
        loss = -np.log(np.clip(hit, _SMALLEST, 1.0))
        put(3, np.ones(len(rows)), rows)
        # Of two classes half of it, as is usual: the squared error of one chance.
        put(4, brier * (MICRO / 2 if self.classes == 2 else MICRO), rows)
        put(5, loss * MICRO, rows)
        put(6, loss**2 * MICRO, rows)
        sure, right = said[at, answer], (answer == truth).astype(np.float64)
        place = self.calibration + 4 * np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, None)
        put(place, np.ones(len(rows)), rows)
        put(place + 1, sure * MICRO, rows)
        put(place + 2, right, rows)
        put(place + 3, (sure - right) ** 2 * MICRO, rows)
        for index, klass in enumerate(self.ranked):
            with np.errstate(divide="ignore"):
                logit = np.log(said[:, klass]) - np.log1p(-said[:, klass])
            place = self.ranks + index * 2 * AUC_BINS + AUC_BINS * (truth == klass)
            put(place + np.searchsorted(_EDGES, logit), np.ones(len(rows)), rows)


@dataclass(frozen=True)
class RegressionLayout:
    """Where each sum of a regression stands.

    Rows; lag in milliseconds; errors (answer - truth), their absolute values, squares and fourth
    powers; powers 1 to 4 of the shifted truth; rows with a truth other than 0, their relative
    errors and squares of these.
    """

    shift: float
    width: int = 13

    def add(
        self, sums: Floats, where: Ints, *, answer: Floats, truth: Floats, lag: Floats, sign: Floats
    ) -> None:
        """Add rows [n] to `sums` [cells, width], each to its cell `where` [n], `sign` times."""
        error = answer - truth
        moved = truth - self.shift
        relative = np.divide(abs(error), abs(truth), out=np.zeros_like(error), where=truth != 0)
        columns = (
            np.ones_like(error), np.round(lag * 1e3),
            error, abs(error), error**2, error**4,
            moved, moved**2, moved**3, moved**4,
            (truth != 0).astype(np.float64), relative, relative**2,
        )  # fmt: skip
        for place, values in enumerate(columns):
            np.add.at(sums.reshape(-1), where * self.width + place, values * sign)


def layout_of(task: Task) -> ClassLayout | RegressionLayout:
    """The sums that a task takes."""
    if task.kind == "classification":
        return ClassLayout(len(task.classes))
    return RegressionLayout(task.shift)
