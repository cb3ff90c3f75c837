"""How unusual a window is, judged by contiguous windows of the reference.

Rows of telemetry are alike when they are close in time, so a table of critical values is wrong for
them. What the statistic does on contiguous windows of the reference already contains that likeness.

A reference has few windows (often 20 to 60), and that sets three traps:

- A rank among n windows cannot be below 1/(n+1), which is far too coarse to find a shift in one
  feature of twenty within a few windows. Beyond the last window seen, the tail of Student's t goes
  on.
- All windows to come are judged by the *same* few windows. If those happen to lie close together,
  every later window looks unusual, and the error does not average out. The spread is therefore
  taken at its upper confidence bound: the p-values are then valid for all but `RISK` of references,
  not just on average over them.
- Where the reference itself has been as far out (a cold snap, the peak of a season), the rank
  counts and the tail does not: what has been seen before is no news.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["RISK", "BlockCalibration"]

#: Share of references, feature by feature, for which the spread may be underestimated.
RISK = 0.02

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BlockCalibration:
    """The null distribution of one statistic per feature.

    `values` [windows, features] are the statistic on reference windows; `mean` and `scale`
    [features] describe it, `scale` already at its upper bound.
    """

    values: Floats
    mean: Floats
    scale: Floats
    two_sided: bool

    @classmethod
    def fit(
        cls, values: Floats, *, floor: tuple[Floats, Floats], two_sided: bool
    ) -> BlockCalibration:
        """Calibrate on windows of the reference.

        `floor` is the mean and spread that the statistic has on independent rows: no feature is
        trusted to be steadier, which also covers features that were constant.
        """
        degrees = len(values) - 1
        inflation = np.sqrt(degrees / stats.chi2.ppf(RISK, degrees))
        spread = np.maximum(values.std(axis=0, ddof=1), floor[1]) * inflation
        mean = values.mean(axis=0) if two_sided else np.maximum(values.mean(axis=0), floor[0])
        return cls(values, mean, spread * np.sqrt(1 + 1 / len(values)), two_sided)

    def pvalues(self, window: Floats) -> Floats:
        """The p-value [features] of one window's statistic [features]."""
        count = len(self.values)
        distance = window - self.mean
        seen = self.values - self.mean
        if self.two_sided:
            distance, seen = np.abs(distance), np.abs(seen)
        tail = stats.t.sf(distance / self.scale, count - 1) * (2 if self.two_sided else 1)
        as_far = (seen >= distance).sum(axis=0)
        ranked = np.maximum(tail, (as_far + 1) / (count + 1))
        return np.asarray(np.minimum(np.where(as_far > 0, ranked, tail), 1.0), dtype=np.float64)
