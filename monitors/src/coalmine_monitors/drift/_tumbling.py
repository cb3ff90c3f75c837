"""Where one window ends and the next begins: after so many rows, or so much time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tumbling"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tumbling:
    """Windows of `rows` rows; or, with `seconds`, of that time and of `rows` rows at least.

    A window by time goes on into the next time while it has too few rows, so that a quiet night is
    judged too. Times are cut at multiples of `seconds`. A row that comes late counts where it
    comes, so that no verdict has to be taken back.
    """

    rows: int
    seconds: float | None = None

    def fits(self, at: Floats, *, held: int, end: float) -> int:
        """How many of the rows to come, at times [n], lie in one window.

        `held` rows are in the present one, which ends at `end` (for time). 0 rows of none.
        """
        if self.seconds is None:
            return min(len(at), self.rows - held)
        if not len(at):
            return 0
        if held == 0 or self.over(float(at[0]), held=held, end=end):
            held, end = 0, self.end(float(at[0]))
        beyond = np.flatnonzero(at >= end)
        # Beyond its end a window takes what it lacks, and closes with the row after that.
        enough = beyond[beyond >= self.rows - held]
        return int(enough[0]) if enough.size else len(at)

    def over(self, at: float, *, held: int, end: float) -> bool:
        """Whether a row at a time is the first of the next window."""
        if self.seconds is None:
            return held >= self.rows
        return held >= self.rows and at >= end

    def end(self, at: float) -> float:
        """Where a window ends that begins with a row at a time."""
        return np.inf if self.seconds is None else (at // self.seconds + 1) * self.seconds

    def cut(self, at: Floats) -> list[slice]:
        """The full windows of rows at times [n]; what is left at the end is none."""
        parts, start = [], 0
        while start < len(at):
            size = self.fits(at[start:], held=0, end=0.0)
            if size < self.rows:
                break
            parts.append(slice(start, start + size))
            start += size
        return parts
