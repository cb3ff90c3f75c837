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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.detectors._baseline import Baseline
from coalmine_monitors.detectors._bayes import LOOK_BACK, Factors, Outlook

__all__ = ["ShiftDetector"]

#: Values that are looked at together: as many as stay in the cache.
_AT_ONCE = 40_000

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


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
        self._factors = Factors(baseline)
        self._at_once = max(_AT_ONCE // (LOOK_BACK * max(streams, 1)), 1)
        self._history: Floats = np.zeros((LOOK_BACK, streams))
        self._known: NDArray[np.bool_] = np.zeros((0, streams), dtype=np.bool_)
        self._place = 0
        self._length: Counts = np.zeros(streams, dtype=np.int64)
        self._outlook: Outlook | None = None
        self.updates = 0

    def update(self, values: Floats) -> None:
        """Take the next value of each stream; a stream without one (NaN) begins anew."""
        self.expect(values[None])
        self.advance()

    def expect(self, values: Floats) -> None:
        """Know what the next updates bring, [updates, streams], each of which `advance` makes.

        Nothing changes by that, but that the evidence of all of them is computed at once.
        """
        known = ~np.isnan(values)
        past = self._history[self._place : self._place + LOOK_BACK]
        self._history = np.vstack([past, np.where(known, values, 0.0)])
        self._known, self._place, self._outlook = known, 0, None

    def advance(self) -> None:
        """Make the next of the updates that `expect` was told of."""
        known = self._known[self._place]
        self._length = np.where(known, np.minimum(self._length + 1, LOOK_BACK), 0)
        self._place += 1
        self.updates += 1
        if self._outlook is not None and self._place >= self._outlook.beyond:
            self._outlook = None

    def forget(self) -> None:
        """Begin anew, as if nothing had been seen."""
        self._length = np.zeros_like(self._length)
        self._outlook = None

    @property
    def evidence(self) -> Floats:
        """Evidence of each stream."""
        return np.asarray(self._now.evidence[self._place - self._now.first])

    @property
    def began(self) -> Counts:
        """Index of the update with which each stream's mean most probably changed, if it did."""
        return np.asarray(self.updates - self._now.lasting[self._place - self._now.first])

    @property
    def bound(self) -> float:
        """What no stream's evidence exceeds: that of the size of shift which fits best."""
        return float(self._now.bound[self._place - self._now.first])

    @property
    def combined(self) -> float:
        """The evidence of all streams together, to compare with `run_length`."""
        return float(self._now.combined[self._place - self._now.first])

    @property
    def alarm(self) -> bool:
        """Whether the evidence suffices."""
        return self.bound >= self.run_length and self.combined >= self.run_length

    @property
    def _now(self) -> Outlook:
        """What is known after this update and some to come, computed when it is asked for."""
        if self._outlook is None:
            first = self._place
            coming = self._known[first : first + self._at_once - 1]
            past = self._history[first : first + len(coming) + LOOK_BACK]
            size = len(coming) + 1
            recent = np.stack([past[back : back + size] for back in range(LOOK_BACK)][::-1])
            length = _lengths(self._length, coming)
            self._outlook = Outlook(self._factors, first, recent, length)
        return self._outlook

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        recent = self._history[self._place : self._place + LOOK_BACK][::-1]
        return {
            "recent": recent.tolist(),
            "length": self._length.tolist(),
            "updates": self.updates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._history = np.array(state["recent"], dtype=np.float64)[::-1]
        self._length = np.array(state["length"], dtype=np.int64)
        self._known, self._place, self._outlook = self._known[:0], 0, None
        self.updates = int(state["updates"])


def _lengths(length: Counts, known: NDArray[np.bool_]) -> Counts:
    """How many values each stream has had in a row [1 + updates, streams], now and after updates.

    At most `LOOK_BACK`.
    """
    number = np.arange(len(known) + 1)[:, None]
    missing = np.zeros((len(known) + 1, length.size), dtype=np.int64)
    missing[1:] = np.where(known, 0, number[1:])
    since = np.maximum.accumulate(missing, axis=0)
    return np.asarray(np.minimum(number - since + np.where(since > 0, 0, length), LOOK_BACK))
