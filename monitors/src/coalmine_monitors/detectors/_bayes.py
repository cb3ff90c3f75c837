"""Bayes factors of the latest windows against a baseline, for many windows at once.

What numpy does costs by the call, and a detector that catches up has many windows at hand. What is
computed of one does not depend, to the last bit, on which others there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.detectors._baseline import Baseline

__all__ = ["LOOK_BACK", "Factors", "Outlook"]

#: Windows that a change may be old and still gather evidence; a shift that is not evident in so
#: many is within what the reference itself does.
LOOK_BACK = 16
#: Sizes of a shift that are looked for, in spreads of the statistic between windows: a mixture of
#: two normal priors, so that neither slow nor sudden shifts are found late.
SIZES = (1.0, 3.0)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Factors:
    """Of the mean of a stream's latest 1, 2, ... `LOOK_BACK` windows being another than before."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        counts = np.arange(1, LOOK_BACK + 1, dtype=np.float64)[:, None, None]
        self._counts = counts
        self._half = (baseline.windows + counts - 1) / 2
        self._size = baseline.size(LOOK_BACK)[:, None, :]
        self._squares = np.maximum(baseline.squares, 1e-300)
        self._upward = ~baseline.two_sided
        self._wider = [1 + self._size * scale**2 for scale in SIZES]
        self._penalties = [np.log(wider) / 2 for wider in self._wider]

    def squared(self, recent: Floats, length: Counts) -> Floats:
        """Squared t of the latest 1, 2, ... windows, by the degrees of freedom; -1 without so many.

        Of `recent` [LOOK_BACK, updates, streams], latest first, and how many of them there are
        [updates, streams]; [LOOK_BACK, updates, streams].
        """
        # Sums of the latest 1, 2, ...: `cumsum` would go through each stream's few by itself.
        sums = np.stack([recent, np.square(recent)])
        for count in range(1, LOOK_BACK):
            sums[:, count] += sums[:, count - 1]
        mean, within = sums
        mean /= self._counts
        within -= self._counts * np.square(mean)
        np.maximum(within, 0.0, out=within)
        within += self._squares
        mean -= self._baseline.mean
        unseen = (self._counts > length) | (self._upward & (mean <= 0))
        squared = np.square(mean, out=mean)
        squared *= self._size
        squared /= within
        np.putmask(squared, unseen, -1.0)
        return np.asarray(squared)

    def of(self, squared: Floats) -> Floats:
        """The factors [LOOK_BACK, updates, streams]; 0 without so many windows."""
        seen, squared = squared >= 0, np.maximum(squared, 0.0)
        full = np.log1p(squared)
        factors = np.zeros_like(squared)
        for wider, penalty in zip(self._wider, self._penalties, strict=True):
            log = squared / wider
            np.log1p(log, out=log)
            np.subtract(full, log, out=log)
            log *= self._half
            log -= penalty
            np.minimum(log, 600.0, out=log)
            factors += np.exp(log, out=log)
        factors /= len(SIZES)
        factors *= seen
        return factors

    def bound(self, squared: Floats) -> Floats:
        """What no factor [updates] exceeds: that of the size of shift which fits best."""
        best = np.log1p(np.maximum(squared.max(axis=2, initial=0.0), 0.0))
        return np.asarray(np.exp(np.minimum((self._half[..., 0] * best).max(axis=0), 600.0)))


@dataclass(frozen=True)
class Outlook:
    """What is known after some updates, one after the other: evidence is the largest factor.

    Each part is computed when it is asked for: most windows are over once `bound` is known.
    """

    factors: Factors
    first: int
    """Which update the first is."""

    recent: Floats
    """[LOOK_BACK, updates, streams], latest first."""

    length: Counts
    """How many of them there are [updates, streams]."""

    @property
    def beyond(self) -> int:
        """The update after the last."""
        return self.first + len(self.length)

    @cached_property
    def _squared(self) -> Floats:
        return self.factors.squared(self.recent, self.length)

    @cached_property
    def _largest(self) -> tuple[Floats, Counts]:
        found = self.factors.of(self._squared)
        any_at_all = self.length > 0
        evidence = np.where(any_at_all, found.max(axis=0), 1.0)
        return evidence, np.where(any_at_all, 1 + found.argmax(axis=0), 0)

    @property
    def evidence(self) -> Floats:
        """Evidence [updates, streams]."""
        return self._largest[0]

    @property
    def lasting(self) -> Counts:
        """Windows [updates, streams] since the change that there is most evidence for."""
        return self._largest[1]

    @cached_property
    def combined(self) -> Floats:
        """The mean over the streams [updates]."""
        return np.asarray(self.evidence.mean(axis=1))

    @cached_property
    def bound(self) -> Floats:
        """What no evidence exceeds [updates]."""
        return self.factors.bound(self._squared)
