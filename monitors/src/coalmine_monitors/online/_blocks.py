"""Rows of a stream of one value, in blocks of the same length, whatever pieces they come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks"]

Floats = NDArray[np.float64]


class Blocks:
    """Cuts a stream; keeps the rows of the block that is not full."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"block_rows: {size} is less than one row")
        self.size = size
        self.rows = 0
        self._rest: Floats = np.zeros(0)
        self._start = 0.0

    def add(self, values: Floats, at: Floats | None) -> tuple[Floats, Floats]:
        """The means [blocks] of the blocks that are full now, and when each began.

        That is the time `at` [rows] of its first row, or the row's number. NaN is no row.
        """
        known = ~np.isnan(values)
        if at is None:
            at = self.rows + np.cumsum(known, dtype=np.float64) - 1
        if not known.all():
            values, at = values[known], at[known]
        self.rows += values.size
        if self.size == 1 or not values.size:
            return values, at
        held = self._rest.size
        joined = np.concatenate([self._rest, values])
        full = joined.size // self.size
        first = np.arange(full) * self.size
        starts = at[np.maximum(first - held, 0)]
        if held and full:
            starts[0] = self._start
        if full or not held:
            left = full * self.size - held
            self._start = float(at[left]) if left < at.size else 0.0
        self._rest = joined[full * self.size :]
        return joined[: full * self.size].reshape(full, self.size).mean(axis=1), starts

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {"rows": self.rows, "rest": self._rest.tolist(), "start": self._start}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the blocks that gave `state`."""
        self.rows = int(state["rows"])
        self._rest = np.array(state["rest"], dtype=np.float64)
        self._start = float(state["start"])
