"""Has an unbounded value another location or spread than on the reference?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors.detectors import LOOK_BACK, Baseline, ShiftDetector
from coalmine_monitors.online._blocks import Blocks

__all__ = ["ScoreDetector"]

#: Blocks of the reference that say what is usual, at least.
MIN_BLOCKS = 20
#: Ranks of the reference that are told apart.
_KNOTS = 1024
#: Blocks that have to look as usual for a verdict to end, and how far off their mean may be, in
#: standard errors.
_CALM = 8
_USUAL = 2.5
#: Ranks further out count as this far in the spread.
_FURTHEST = 3.0

Floats = NDArray[np.float64]


class ScoreDetector:
    """An e-detector of "the mean rank, or the spread of ranks, is another than on the reference".

    Values are taken as the normal scores of their ranks in the reference, so that no tail is too
    heavy; blocks of them, not rows, are the observations, calibrated on the reference's own
    contiguous blocks (see `ShiftDetector`): what is alike in time is so there too. An alarm comes
    with at least `run_length` rows between false ones in the mean, and is over when `_CALM` blocks
    together look as usual again.

    >>> rng = np.random.default_rng(1)
    >>> detector = ScoreDetector(rng.standard_cauchy(5_000), block_rows=100, run_length=100_000)
    >>> detector.update(rng.standard_cauchy(2_000)); detector.detected
    False
    >>> detector.update(rng.standard_cauchy(500) + 2); detector.detected, detector.onset
    (True, 2000.0)
    """

    def __init__(
        self, reference: NDArray[Any], *, run_length: float, block_rows: int = 100
    ) -> None:
        """`reference` [rows] in the order of time; UnusableReferenceError if it is too short."""
        past = np.asarray(reference, dtype=np.float64)
        past = past[~np.isnan(past)]
        if len(past) < MIN_BLOCKS * block_rows:
            raise UnusableReferenceError(
                f"{len(past)} values are {len(past) // block_rows} blocks of {block_rows}; "
                f"it takes {MIN_BLOCKS}"
            )
        self.run_length = float(run_length)
        order = np.sort(past)
        self._knots = np.unique(np.quantile(order, np.linspace(0, 1, _KNOTS)))
        below, upper = (order.searchsorted(self._knots, side) for side in ("left", "right"))
        half = 0.5 / order.size
        self._scores = ndtri(np.clip((below + upper) / (2 * order.size), half, 1 - half))
        # The mean of scores, and that of their squares, are what blocks are made of.
        blocks = self._two_means(past, Blocks(block_rows), Blocks(block_rows))[0]
        spread = 1 / np.sqrt(block_rows) * np.array([1.0, math.sqrt(2)])
        self._baseline = Baseline.fit(
            blocks, floor=(np.zeros(2), spread), two_sided=np.array([True, True])
        )
        self._needed = max(run_length / block_rows, 2.0)
        self._test = ShiftDetector(self._baseline, run_length=self._needed)
        self._block = (Blocks(block_rows), Blocks(block_rows))
        self._recent: Floats = np.zeros((0, 2))
        self._starts: list[float] = []
        self.detected = False
        """Whether the stream is another one, hysteresis included."""
        self.onset = 0.0
        """Since when, at the last alarm: the number of the row, or its time if times are given."""

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._block[0].rows

    @property
    def score(self) -> float:
        """How far the last blocks' mean rank is away, in standard deviations of the reference."""
        if not len(self._recent):
            return 0.0
        return float(self._recent[:, 0].mean() - self._baseline.mean[0])

    @property
    def log_evidence(self) -> tuple[float, float]:
        """Natural logarithms of the evidence and of what an alarm takes."""
        return math.log(max(self._test.combined, 1e-9)), math.log(self._needed)

    def update(self, values: NDArray[Any], at: Floats | None = None) -> None:
        """Take the next values [rows], with their times [rows], non-decreasing, if `onset` is one.

        Not a number counts as no row.
        """
        means, starts = self._two_means(np.asarray(values, dtype=np.float64), *self._block, at=at)
        for mean, start in zip(means, starts.tolist(), strict=True):
            self._judge(mean, start)

    def _two_means(
        self, values: Floats, first: Blocks, second: Blocks, at: Floats | None = None
    ) -> tuple[Floats, Floats]:
        scores = np.interp(values, self._knots, self._scores)
        means, starts = first.add(scores, at)
        squares, _ = second.add(np.minimum(scores**2, _FURTHEST**2), at)
        # A logarithm makes the spread nearly normal.
        return np.column_stack([means, np.log(np.maximum(squares, 1e-6))]), starts

    def _judge(self, mean: Floats, start: float) -> None:
        self._test.update(mean)
        self._recent = np.vstack([mean[None], self._recent[: _CALM - 1]])
        self._starts = [start, *self._starts[: LOOK_BACK - 1]]
        if not self.detected and self._test.alarm:
            self.detected = True
            strongest = int(np.argmax(self._test.evidence))
            lasted = int(self._test.updates - self._test.began[strongest])
            self.onset = self._starts[min(max(lasted, 1), len(self._starts)) - 1]
            self._recent = mean[None]
        elif self.detected and self._is_back():
            self.detected = False
            self._test.forget()

    def _is_back(self) -> bool:
        error = self._baseline.spread * np.sqrt(1 / _CALM + 1 / self._baseline.windows)
        away = np.abs(self._recent.mean(axis=0) - self._baseline.mean)
        return len(self._recent) == _CALM and bool((away < _USUAL * error).all())

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "blocks": [blocks.state() for blocks in self._block],
            "detected": self.detected,
            "onset": self.onset,
            "recent": self._recent.tolist(),
            "starts": list(self._starts),
            "test": self._test.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        for blocks, saved in zip(self._block, state["blocks"], strict=True):
            blocks.restore(saved)
        self.detected = bool(state["detected"])
        self.onset = float(state["onset"])
        self._recent = np.array(state["recent"], dtype=np.float64).reshape(-1, 2)
        self._starts = [float(start) for start in state["starts"]]
        self._test.restore(state["test"])
