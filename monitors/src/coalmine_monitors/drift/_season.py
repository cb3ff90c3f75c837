"""A season: windows are compared with the reference's windows of the same phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY", "Season", "fit_season", "readable"]

DAY = 86_400.0
#: Phases that a season is cut into at most, and windows of the reference that each needs at least.
_PHASES = 8
_WINDOWS = 5

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Season:
    """How a window's time says what it is compared with."""

    period: float
    """Seconds; 0: no season."""

    phases: int = 1
    covered: tuple[bool, ...] = (True,)
    """Which eighths of the period the reference has windows of; the others are not judged."""

    def phase(self, at: float) -> int | None:
        """Index of the reference's part for a window around a time; None if it has none."""
        if not self.period:
            return 0
        turn = at / self.period % 1.0
        if not self.covered[int(turn * len(self.covered))]:
            return None
        return int(turn * self.phases)


def fit_season(
    period: float | None, *, starts: Floats | None, ends: Floats | None
) -> tuple[Season, tuple[str, ...]]:
    """The season that a reference's windows [windows] can be used for, and what to warn of.

    Windows are compared by phase where the reference spans the period twice. Where it spans it
    once, with all of it. Where it does not span it, phases that it has not seen are not judged.
    """
    if starts is None or ends is None:
        if period is None:
            return Season(0.0), ()
        return Season(0.0), (
            "a season is declared, but the reference has no `time` column: build it with one",
        )
    span = float(ends[-1] - starts[0])
    if period is None:
        if span >= DAY:
            return Season(0.0), ()
        return Season(0.0), (
            f"the reference covers {readable(span)}, less than a day: if the traffic has a daily "
            "season, it is drift; declare `monitors.drift.season: 1d` or take a longer reference",
        )
    turns = (starts + ends) / 2 / period % 1.0
    eighths = np.bincount((turns * _PHASES).astype(int), minlength=_PHASES) > 0
    if span < 0.9 * period:
        text = (
            f"the reference covers {readable(span)} of a season of {readable(period)}: windows in "
            "the phases that it lacks are not judged"
        )
        return Season(period, covered=tuple(map(bool, eighths))), (text,)
    phases = min(_PHASES, len(starts) // _WINDOWS)
    if span < 1.9 * period or phases < 2:
        text = (
            f"the reference covers {readable(span)} in {len(starts)} windows, too few to compare "
            f"phases of a season of {readable(period)}: windows are compared with all of it"
        )
        return Season(period), (text,)
    phases = _occupied(turns, phases)
    return Season(period, phases=phases), ()


def _occupied(turns: Floats, phases: int) -> int:
    """As many phases as all have windows enough."""
    while phases > 1:
        if np.bincount((turns * phases).astype(int), minlength=phases).min() >= _WINDOWS - 1:
            break
        phases -= 1
    return phases


def readable(seconds: float) -> str:
    """A duration for people.

    >>> readable(5400.0), readable(172800.0)
    ('1.5 h', '2 d')
    """
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{round(seconds / size, 1):g} {unit}"
    return f"{math.ceil(seconds)} s"
