"""Where one window ends and the next begins: after so many rows, or so much time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Piece", "Tumbling"]

Floats = NDArray[np.float64]

#: Rows looked through at a time for the end of a window.
_LOOK = 1024


@dataclass(frozen=True)
class Piece:
    """Some rows that lie in one window."""

    start: int
    stop: int
    """Where, in the rows to come, it starts and stops."""

    first: bool
    """Whether the window before is over with it."""

    full: bool
    """Whether its own window is over with its last row."""

    end: float
    """Where the time of its window ends."""


@dataclass(frozen=True)
class Tumbling:
    """Windows of `rows` rows; or, with `seconds`, of that time and of `rows` rows at least.

    Times are cut at multiples of `seconds`. A window by time that has too few rows goes on into the
    next such time, so that a quiet night is judged too, and ends with it, so that parts of a window
    that are counted elsewhere all end where it does. A row that comes late counts where it comes:
    no verdict has to be taken back.
    """

    rows: int
    seconds: float | None = None

    def fits(self, at: Floats, *, held: int, end: float) -> int:
        """How many of the rows to come, at times [n], lie in one window.

        `held` rows are in the present one, whose time ends at `end`.
        """
        if self.seconds is None:
            return min(len(at), self.rows - held)
        if not len(at):
            return 0
        limit = self.end(float(at[0]), end=end if held else -np.inf)
        # Times are nearly sorted, and a batch has many windows: most of it is not looked at.
        for start in range(0, len(at), _LOOK):
            beyond = np.flatnonzero(at[start : start + _LOOK] >= limit)
            if beyond.size:
                return start + int(beyond[0])
        return len(at)

    def pieces(self, at: Floats, *, held: int, end: float) -> Iterator[Piece]:
        """The rows to come, at times [n], cut where windows end; see `fits`."""
        start = 0
        while start < len(at):
            now = float(at[start])
            first = self.over(now, held=held, end=end)
            held, end = (0, -np.inf) if first else (held, end)
            end = self.end(now, end=end)
            stop = start + self.fits(at[start:], held=held, end=end)
            held += stop - start
            full = self.seconds is None and held >= self.rows
            yield Piece(start, stop, first, full, end)
            held, end = (0, -np.inf) if full else (held, end)
            start = stop

    def over(self, at: float, *, held: int, end: float) -> bool:
        """Whether a row at a time is the first of the next window."""
        return held >= self.rows and (self.seconds is None or at >= end)

    def end(self, at: float, *, end: float) -> float:
        """Where the time ends that a row belongs to, if the present one ends at `end`."""
        if self.seconds is None or at < end:
            return end
        return float((at // self.seconds + 1) * self.seconds)

    def cut(self, at: Floats) -> list[slice]:
        """The windows of rows at times [n]; the last one, which nothing ends, is none."""
        if self.seconds is None:
            starts = range(0, len(at) - self.rows + 1, self.rows)
            return [slice(start, start + self.rows) for start in starts]
        periods = np.maximum.accumulate(at) // self.seconds
        parts, start = [], 0
        for stop in (np.flatnonzero(np.diff(periods)) + 1).tolist():
            if stop - start >= self.rows:
                parts.append(slice(start, stop))
                start = stop
        return parts
