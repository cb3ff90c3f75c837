"""Has the mean of a bounded value gone beyond a limit? For errors (0 or 1) and bounded scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.detectors import STAKES
from coalmine_monitors.online._blocks import Blocks

__all__ = ["BoundedMeanDetector"]

Floats = NDArray[np.float64]

_STAKES = np.array(STAKES)[:, None]


class BoundedMeanDetector:
    """An e-detector of "the mean is above `limit`" for values between `low` and `high`.

    While the expectation of each block's mean, whatever came before it, is at most `limit`, the
    expected number of rows to an alarm is at least `run_length`. Nothing else is supposed: no
    independence, no distribution. `limit` is therefore what is tolerable, a margin above what is
    usual; and where neighbouring rows are alike, as errors that come in bursts, `block_rows` is
    longer than a burst: an error raises what is to be expected of the next row, but not of the next
    block. Of several stakes side by side each bets that the mean is above `limit`; the evidence of
    each is its winnings since it was last without any, and the alarm sounds when their mean reaches
    `run_length` (in blocks). The verdict ends when bets of the same kind that the mean is below
    `limit` have won as much: half-way back is not back.

    Memory does not grow, and a row costs a fraction of a microsecond. NaN counts as no row.

    >>> detector = BoundedMeanDetector(limit=0.05, run_length=10_000)
    >>> calm, wrong = np.arange(5_000) % 50 == 0, np.arange(500) % 4 == 0
    >>> detector.update(calm); detector.detected
    False
    >>> detector.update(wrong); detector.detected, 4_900 < detector.onset <= 5_020
    (True, True)

    Sources: Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change
    detection", 2024; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting", 2024.
    """

    def __init__(
        self,
        *,
        limit: float,
        run_length: float,
        low: float = 0.0,
        high: float = 1.0,
        below: bool = False,
        block_rows: int = 1,
    ) -> None:
        """With `below` an alarm is about a mean under `limit`. ValueError names what is wrong."""
        if not (math.isfinite(low) and math.isfinite(high) and low < limit < high):
            raise ValueError(f"limit: {limit} is not between {low} and {high}")
        self._blocks = Blocks(block_rows)
        if run_length < block_rows:
            raise ValueError(f"run_length: {run_length} is less than a block of {block_rows} rows")
        self.limit = limit
        self.run_length = float(run_length)
        self._low, self._width = low, high - low
        self._mean = (limit - low) / self._width
        self._below = below
        self._needed = math.log(max(run_length / block_rows, 2.0))
        self.detected = False
        """Whether the mean is beyond the limit, hysteresis included."""
        self.onset = 0.0
        """Since when, at the last alarm: the number of the row, or its time if times are given."""
        self._since: Floats = np.zeros(2)
        self._start()

    def _start(self) -> None:
        size = len(_STAKES)
        self._sums: Floats = np.zeros(size)
        self._least: Floats = np.zeros(size)
        #: Number and sum of the blocks' means since the verdict changed; then, for each stake, of
        #: those before its winnings began.
        self._total: Floats = np.zeros(2)
        self._before: Floats = np.zeros((size, 2))
        self._began: Floats = np.zeros(size)

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._blocks.rows

    @property
    def score(self) -> float:
        """The mean since the onset while `detected`, else since the most successful bet began to
        win; `limit` before any row."""
        best = int(np.argmax(self._sums - self._least))
        count, total = self._total + (self._since if self.detected else -self._before[best])
        return float(self._low + self._width * total / count) if count else self.limit

    @property
    def log_evidence(self) -> tuple[float, float]:
        """Natural logarithms of the evidence and of what an alarm takes.

        While `detected`, of the evidence that it is over.
        """
        won = self._sums - self._least
        return float(np.logaddexp.reduce(won) - math.log(won.size)), self._needed

    def update(self, values: NDArray[Any], at: Floats | None = None) -> None:
        """Take the next values [rows], with their times [rows], non-decreasing, if `onset` is one.

        Values outside of the bounds count as the bounds.
        """
        means, starts = self._blocks.add(np.asarray(values, dtype=np.float64), at)
        means = np.clip((means - self._low) / self._width, 0.0, 1.0)
        while means.size:
            taken = self._take(means, starts)
            means, starts = means[taken:], starts[taken:]

    def _take(self, means: Floats, starts: Floats) -> int:
        """Bet on blocks until the verdict changes; how many there were."""
        up = self._below == self.detected
        away = (means - self._mean) / self._mean if up else (self._mean - means) / (1 - self._mean)
        gains = np.log1p(_STAKES * away)
        # One sum after another from what was: the same numbers in whatever pieces they come.
        sums = np.cumsum(np.concatenate([self._sums[:, None], gains], axis=1), axis=1)
        least = np.minimum.accumulate(
            np.concatenate([self._least[:, None], sums[:, :-1]], axis=1), axis=1
        )[:, 1:]
        won = np.logaddexp.reduce(sums[:, 1:] - least, axis=0) - math.log(len(_STAKES))
        crossed = np.flatnonzero(won >= self._needed)
        taken = int(crossed[0]) + 1 if crossed.size else means.size
        self._follow(sums[:, : taken + 1], means[:taken], starts[:taken])
        if crossed.size:
            if not self.detected:
                best = int(np.argmax(self._sums - self._least))
                self.onset = float(self._began[best])
                self._since = self._total - self._before[best]
            self.detected = not self.detected
            self._start()
        return taken

    def _follow(self, sums: Floats, means: Floats, starts: Floats) -> None:
        """Remember where the winnings of each stake began."""
        counts = np.arange(means.size + 1) + self._total[0]
        totals = np.cumsum(np.concatenate([self._total[1:], means]))
        for stake, row in enumerate(sums[:, :-1]):
            # The last of the lowest: between ties nothing was won.
            place = row.size - 1 - int(np.argmin(row[::-1]))
            if row[place] <= self._least[stake]:
                self._least[stake] = row[place]
                self._began[stake] = starts[place]
                self._before[stake] = counts[place], totals[place]
        self._total = np.array([counts[-1], totals[-1]])
        self._sums = sums[:, -1].copy()

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "blocks": self._blocks.state(),
            "detected": self.detected,
            "onset": self.onset,
            "sums": self._sums.tolist(),
            "least": self._least.tolist(),
            "began": self._began.tolist(),
            "total": self._total.tolist(),
            "since": self._since.tolist(),
            "before": self._before.tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._blocks.restore(state["blocks"])
        self.detected = bool(state["detected"])
        self.onset = float(state["onset"])
        self._sums = np.array(state["sums"], dtype=np.float64)
        self._least = np.array(state["least"], dtype=np.float64)
        self._began = np.array(state["began"], dtype=np.float64)
        self._total = np.array(state["total"], dtype=np.float64)
        self._since = np.array(state["since"], dtype=np.float64)
        self._before = np.array(state["before"], dtype=np.float64)
