"""What judges a block of rows, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Judge", "Judgement", "surprise"]

Floats = NDArray[np.float64]

#: The smallest p-value that is told apart from 0.
_SMALLEST = 1e-300


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Of one block."""

    alarm: bool
    score: float
    threshold: float
    """What the score is held against; of a test both are -log10 of its p-value."""

    first_row: int = 0
    """Of the block, from which on it is judged to be different."""

    features: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Score and threshold by column, where the detector judges columns."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """What else it said, for the incident's evidence; plain JSON."""


class Judge(Protocol):
    """Judges blocks of complete rows [rows, columns], one after the other."""

    def judge(self, rows: Floats) -> Judgement:
        """The next block."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs beside the making, for JSON; of a fixed size."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the judge that gave `state`."""


def surprise(p_value: float) -> float:
    """-log10 of a p-value, finite."""
    return float(-np.log10(max(float(p_value), _SMALLEST)))
