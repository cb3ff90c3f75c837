"""Has the mean of a statistic moved? Evidence over any number of windows, against a reference.

Rows of telemetry are alike when they are close in time, so a table of critical values is wrong for
them. What a statistic does from window to window of the reference already contains that likeness:
windows, not rows, are the observations here. A reference has few of them (often 20 to 60), so that
its own mean and spread are uncertain, and that uncertainty is the same in every window to come.
Student's t is the answer to both: the evidence that the latest k windows have another mean than the
reference is the Bayes factor of the two-sample t-test, in which the unknown mean and spread drop
out.

For independent, nearly normal windows its expectation is 1 while nothing happens, for every k and
at any stopping time. Two things are done for windows that are not:

- Their correlation from one window to the next, as the reference shows it, widens the error of
  every mean (a season turns slowly; what is one swing must not count as many observations).
- No statistic is trusted to be steadier than it would be on independent rows.

Sources: Rouder, Speckman, Sun, Morey and Iverson, "Bayesian t tests for accepting and rejecting the
null hypothesis", 2009 (with a normal prior here); Perez-Ortiz, Lardy, de Heide and Gruenwald,
"E-statistics, group invariance and anytime-valid testing", 2024; Shin, Ramdas and Rinaldo,
"E-detectors: a nonparametric framework for sequential change detection", 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOOK_BACK", "Baseline", "ShiftDetector"]

#: Windows that a change may be old and still gather evidence; a shift that is not evident in so
#: many is within what the reference itself does.
LOOK_BACK = 16
#: Sizes of a shift that are looked for, in spreads of the statistic between windows: a mixture of
#: two normal priors, so that neither slow nor sudden shifts are found late.
SIZES = (1.0, 3.0)
#: Largest correlation between neighbouring windows: with more, no number of windows says anything.
_MAX_CORRELATION = 0.98

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


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


class ShiftDetector:
    """An e-detector over several streams, one value of each per window.

    A stream's evidence is the largest Bayes factor, over the windows that a change may have begun
    with, that its mean is another one since than on the reference. The alarm sounds when the mean
    of all streams' evidence reaches `run_length`: averaging pays for the number of streams once and
    not in every window.

    The largest of the factors never exceeds their sum, a Shiryaev-Roberts statistic, whose
    expectation grows by at most 1 per window; so the expected number of windows to a false alarm is
    at least `run_length`.

    >>> past = np.random.default_rng(1).standard_normal((30, 2))
    >>> floor = (np.zeros(2), np.zeros(2))
    >>> baseline = Baseline.fit(past, floor=floor, two_sided=np.array([True, True]))
    >>> detector = ShiftDetector(baseline, run_length=100)
    >>> for _ in range(3):
    ...     detector.update(np.array([5.0, 0.3]))
    >>> detector.alarm, detector.began.tolist(), bool(detector.evidence[1] < 1)
    (True, [0, 2], True)
    """

    def __init__(self, baseline: Baseline, *, run_length: float) -> None:
        streams = baseline.mean.size
        self.run_length = float(run_length)
        self._baseline = baseline
        self._counts = np.arange(1, LOOK_BACK + 1, dtype=np.float64)[:, None]
        self._size = baseline.size(LOOK_BACK)
        self._squares = np.maximum(baseline.squares, 1e-300)
        self._upward = ~baseline.two_sided
        self._wider = [1 + self._size * scale**2 for scale in SIZES]
        self._recent: Floats = np.zeros((LOOK_BACK, streams))
        self._length: Counts = np.zeros(streams, dtype=np.int64)
        self._found: tuple[Floats, Counts] | None = None
        self.updates = 0

    def update(self, values: Floats) -> None:
        """Take the next value of each stream; a stream without one (NaN) begins anew."""
        known = ~np.isnan(values)
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = np.where(known, values, 0.0)
        self._length = np.where(known, np.minimum(self._length + 1, LOOK_BACK), 0)
        self.updates += 1
        self._found = None

    def forget(self) -> None:
        """Begin anew, as if nothing had been seen."""
        self._length = np.zeros_like(self._length)
        self._found = None

    @property
    def evidence(self) -> Floats:
        """Evidence of each stream."""
        return self._best[0]

    @property
    def began(self) -> Counts:
        """Index of the update with which each stream's mean most probably changed, if it did."""
        return self._best[1]

    @property
    def _best(self) -> tuple[Floats, Counts]:
        # Computed when it is asked for: most windows are over once `bound` is known.
        if self._found is None:
            factors = self._factors()
            evidence = np.where(self._length > 0, factors.max(axis=0), 1.0)
            began = self.updates - np.where(self._length > 0, 1 + np.argmax(factors, axis=0), 0)
            self._found = evidence, began
        return self._found

    def _squared(self) -> Floats:
        """Squared t of the latest 1, 2, ... windows, by the degrees of freedom; 0 without so many.

        [LOOK_BACK, streams].
        """
        base, count = self._baseline, self._counts
        mean = self._recent.cumsum(axis=0)
        within = np.square(self._recent).cumsum(axis=0)
        mean /= count
        within -= count * np.square(mean)
        np.maximum(within, 0.0, out=within)
        within += self._squares
        mean -= base.mean
        squared = np.square(mean)
        squared *= self._size
        squared /= within
        squared[(count > self._length) | (self._upward & (mean <= 0))] = -1.0
        return np.asarray(squared)

    def _factors(self) -> Floats:
        """Bayes factors [LOOK_BACK, streams] of the latest 1, 2, ... windows; 0 without so many."""
        squared = self._squared()
        half = (self._baseline.windows + self._counts - 1) / 2
        seen, squared = squared >= 0, np.maximum(squared, 0.0)
        full = np.log1p(squared)
        factors = np.zeros_like(squared)
        for wider in self._wider:
            log = half * (full - np.log1p(squared / wider)) - np.log(wider) / 2
            factors += np.exp(np.minimum(log, 600.0)) / len(SIZES)
        return np.asarray(np.where(seen, factors, 0.0))

    @property
    def bound(self) -> float:
        """What no stream's evidence exceeds: that of the size of shift which fits best."""
        best = np.log1p(np.maximum(self._squared().max(axis=1, initial=0.0), 0.0))
        log = (self._baseline.windows + self._counts[:, 0] - 1) / 2 * best
        return float(np.exp(min(float(log.max()), 600.0)))

    @property
    def combined(self) -> float:
        """The evidence of all streams together, to compare with `run_length`."""
        return float(self.evidence.mean())

    @property
    def alarm(self) -> bool:
        """Whether the evidence suffices."""
        if self._found is None and self.bound < self.run_length:
            return False
        return self.combined >= self.run_length

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "recent": self._recent.tolist(),
            "length": self._length.tolist(),
            "updates": self.updates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._recent = np.array(state["recent"], dtype=np.float64)
        self._length = np.array(state["length"], dtype=np.int64)
        self.updates = int(state["updates"])
        self._found = None
