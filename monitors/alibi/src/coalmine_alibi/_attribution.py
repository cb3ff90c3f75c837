"""Which features moved, and where to: most detectors say only that something did."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalmine_alibi._judge import Floats

__all__ = ["Moves"]

#: Chance that any feature is named although none moved, were rows independent.
_FALSE_NAMES = 0.01
#: Standard errors of the mean from which on a move has a direction.
_DIRECTED = 4.0


class Moves:
    """Kolmogorov-Smirnov distances of a window from the reference [rows, columns]; no verdict."""

    def __init__(self, reference: Floats) -> None:
        self._sorted = np.sort(reference, axis=0)
        self._mean = reference.mean(axis=0)
        self._spread = reference.std(axis=0)

    def distances(self, rows: Floats) -> Floats:
        """The distance of each column."""
        count = len(self._sorted)
        found = np.empty(rows.shape[1])
        for place, values in enumerate(np.sort(rows, axis=0).T):
            known = self._sorted[:, place]
            everywhere = np.concatenate([known, values])
            found[place] = np.abs(
                np.searchsorted(known, everywhere, side="right") / count
                - np.searchsorted(values, everywhere, side="right") / len(values)
            ).max()
        return found

    def critical(self, rows: int) -> float:
        """The distance from which on a column is named, of a window of so many rows."""
        count, columns = self._sorted.shape
        scale = np.sqrt((count + rows) / (count * rows))
        return float(scale * np.sqrt(-np.log(_FALSE_NAMES / columns / 2) / 2))

    def of(self, rows: Floats, column: int, *, numeric: bool) -> dict[str, Any]:
        """`direction` and `shift` of an affected feature: where its mean went, and how far."""
        spread = float(self._spread[column])
        if not numeric or spread == 0:
            return {"direction": "other"}
        shift = float(rows[:, column].mean() - self._mean[column]) / spread
        if abs(shift) <= _DIRECTED / np.sqrt(len(rows)):
            return {"direction": "other", "shift": round(shift, 6)}
        return {"direction": "up" if shift > 0 else "down", "shift": round(shift, 6)}
