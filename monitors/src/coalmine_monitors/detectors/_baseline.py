"""What some statistics do from window to window of a reference, on which nothing happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Baseline"]

#: Largest correlation between neighbouring windows: with more, no number of windows says anything.
_MAX_CORRELATION = 0.98

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """What some statistics [streams] do on the windows of a reference, on which nothing happens."""

    windows: int
    mean: Floats
    squares: Floats
    """Sum of squared distances from the mean."""

    correlation: Floats
    """Of neighbouring windows, in [0, 1)."""

    two_sided: NDArray[np.bool_]
    """Streams whose mean may move either way; those of the others only upwards."""

    @classmethod
    def fit(
        cls, values: Floats, *, floor: tuple[Floats, Floats], two_sided: NDArray[np.bool_]
    ) -> Baseline:
        """Describe `values` [windows, streams].

        `floor` is the mean and spread [streams] that the statistics have on independent rows. A
        one-sided statistic is not trusted to be lower than that, none to be steadier.
        """
        count = len(values)
        mean = values.mean(axis=0)
        away = values - mean
        own = (away**2).sum(axis=0)
        beside = (away[1:] * away[:-1]).sum(axis=0)
        # The estimate is low by about 1/n, and wrong by 1/sqrt(n): half of that is forgiven, since
        # on most streams there is no correlation and every excess costs power.
        correlation = beside / np.maximum(own, 1e-300) + 1 / count - 0.5 / np.sqrt(count)
        return cls(
            windows=count,
            mean=np.where(two_sided, mean, np.maximum(mean, floor[0])),
            squares=np.maximum(own, (count - 1) * floor[1] ** 2),
            correlation=np.clip(correlation, 0.0, _MAX_CORRELATION),
            two_sided=two_sided,
        )

    @property
    def spread(self) -> Floats:
        """Standard deviation [streams] of the statistics from window to window."""
        return np.asarray(np.sqrt(self.squares / (self.windows - 1)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "windows": self.windows,
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
            "correlation": self.correlation.tolist(),
            "two_sided": self.two_sided.tolist(),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Baseline:
        """The baseline that gave `saved`."""
        return cls(
            windows=int(saved["windows"]),
            mean=np.array(saved["mean"], dtype=np.float64),
            squares=np.array(saved["squares"], dtype=np.float64),
            correlation=np.array(saved["correlation"], dtype=np.float64),
            two_sided=np.array(saved["two_sided"], dtype=np.bool_),
        )

    def size(self, most: int) -> Floats:
        """The effective sizes [most, streams] of comparing the mean of 1, 2, ... windows with ours.

        For independent ones that is the usual `1 / (1/k + 1/windows)`.
        """
        longest = max(most, self.windows)
        lags = np.arange(1, longest)[:, None]
        powers = self.correlation**lags
        none = np.zeros((1, self.mean.size))
        near = np.vstack([none, np.cumsum(powers, axis=0)])
        far = np.vstack([none, np.cumsum(lags * powers, axis=0)])
        count = np.arange(1, longest + 1)[:, None]
        error = (1 + 2 * (near - far / count)) / count
        return np.asarray(1 / (error[:most] + error[self.windows - 1]))
