"""Evidence carried from window to window, with a declared run length between false alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EDetector"]

Floats = NDArray[np.float64]


class EDetector:
    """An e-detector over several streams: the mean of their e-CUSUMs against a threshold.

    Each `update` takes one e-value per stream (expectation at most 1, given the past, while nothing
    happens). A stream's evidence is `max(evidence, 1) * e`, and the alarm sounds when the mean over
    streams reaches `run_length`: averaging evidence, not e-values, pays for the number of streams
    once and not in every window.

    The evidence never exceeds the Shiryaev-Roberts statistic `(evidence + 1) * e` of the same
    e-values, whose expectation grows by at most 1 per window; so the expected number of windows to
    a false alarm is at least `run_length`, whatever the dependence between streams.
    Shiryaev-Roberts itself is not used for the alarm: on a quiet stream it creeps up by about 1 per
    window until anything sets it off.

    One window alone never suffices: e-values are capped at the root of what one stream needs.

    >>> detector = EDetector(streams=2, run_length=100)
    >>> for _ in range(3):
    ...     detector.update(np.array([9.0, 0.5]))
    >>> detector.alarm, detector.evidence.tolist(), detector.began.tolist()
    (True, [729.0, 0.5], [0, 2])

    Source: Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change
    detection", 2024.
    """

    def __init__(self, *, streams: int, run_length: float) -> None:
        self.run_length = float(run_length)
        self._cap = float(np.sqrt(run_length * streams))
        self.evidence: Floats = np.ones(streams)
        #: Index of the update with which each stream's present run of evidence began.
        self.began: NDArray[np.int64] = np.zeros(streams, dtype=np.int64)
        #: Index of the first of the latest updates that all added evidence: a run may begin with
        #: chance, but what sets off an alarm rises without a break.
        self.rising: NDArray[np.int64] = np.zeros(streams, dtype=np.int64)
        self.updates = 0

    def update(self, evalues: Floats) -> None:
        """Take the next e-value of each stream."""
        self.began[self.evidence <= 1] = self.updates
        # The bound far beyond the threshold keeps numbers finite and recovery quick.
        bounded = np.maximum(self.evidence, 1) * np.minimum(evalues, self._cap)
        self.evidence = np.minimum(bounded, 1e3 * self._cap**2)
        self.rising[evalues <= 1] = self.updates + 1
        self.updates += 1

    @property
    def combined(self) -> float:
        """The evidence of all streams together, to compare with `run_length`."""
        return float(self.evidence.mean())

    @property
    def alarm(self) -> bool:
        """Whether the evidence suffices."""
        return self.combined >= self.run_length

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "evidence": self.evidence.tolist(),
            "began": self.began.tolist(),
            "rising": self.rising.tolist(),
            "updates": self.updates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self.evidence = np.array(state["evidence"], dtype=np.float64)
        self.began = np.array(state["began"], dtype=np.int64)
        self.rising = np.array(state["rising"], dtype=np.int64)
        self.updates = int(state["updates"])
