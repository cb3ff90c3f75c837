"""What the monitor needs of a statistic of all columns together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistic"]

Floats = NDArray[np.float64]


class Statistic(ABC):
    """One number per window, nearly normal from window to window while nothing happens."""

    name: ClassVar[str]
    two_sided: ClassVar[bool]
    """Whether a change may lower it, too."""

    floor: tuple[float, float]
    """Its mean and spread on independent rows."""

    @abstractmethod
    def without(self, rest: Floats) -> Self:
        """As if fitted on other points [n, used] alone, as far as that matters to their scores."""

    @abstractmethod
    def score(self, points: Floats) -> float:
        """Of a window's points [n, used]."""

    @abstractmethod
    def effect(self, scores: Floats) -> Floats:
        """Scores [...] in units of the population stability index, so that one limit fits all."""
