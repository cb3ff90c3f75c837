"""Whether the labels that come agree with what was estimated of their rows without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coalmine_monitors.detectors import EDetector
from coalmine_monitors.performance._estimate import Calibration

__all__ = ["GROUP", "EstimateCheck"]

#: Labelled rows that are judged at a time.
GROUP = 25
#: Groups between two times that estimates which are right are doubted, at least.
RUN_LENGTH = 500
#: How much evidence may be there, over so many groups, for labels to agree again.
_AGREED, _AGREEING = 5.0, 20


class EstimateCheck:
    """An e-detector of "classes do not follow from features as they did".

    Evidence is that of labelled rows against what was expected of them, in every way of
    `Alternatives`. When it reaches `RUN_LENGTH` estimates are not valid, until there is none to
    speak of over 500 rows in a row.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._alternatives = calibration.alternatives
        self._rows: tuple[tuple[float, int, int], ...] = ()
        self._test = self._fresh()
        self._calm = 0
        self.valid = True
        """False while labels contradict the estimates."""

    def _fresh(self) -> EDetector:
        return EDetector(streams=max(self._alternatives.size, 1), run_length=RUN_LENGTH)

    def update(self, *, chance: float, correct: bool, klass: int) -> None:
        """Take the next labelled row, answered with class `klass`, in the order of its label."""
        self._rows = (*self._rows, (chance, int(correct), klass))
        if len(self._rows) < GROUP:
            return
        rows, self._rows = np.array(self._rows), ()
        if not self._alternatives.size:
            return
        logs = self._alternatives.evalues(rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64))
        self._test.update(np.exp(np.minimum(logs, 300.0)))
        if self._test.alarm:
            self.valid, self._calm, self._test = False, 0, self._fresh()
        elif not self.valid:
            self._calm = self._calm + 1 if self._test.combined < _AGREED else 0
            self.valid = self._calm >= _AGREEING

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "rows": self._rows,
            "test": self._test.state(),
            "calm": self._calm,
            "valid": self.valid,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the check that gave `state`."""
        self._rows = tuple((float(q), int(right), int(klass)) for q, right, klass in state["rows"])
        if len(state["test"]["evidence"]) == self._test.evidence.size:
            self._test.restore(state["test"])
        self._calm = int(state["calm"])
        self.valid = bool(state["valid"])
