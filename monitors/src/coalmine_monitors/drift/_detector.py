"""Drift of the features and predictions of one model version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coalmine.incidents import AffectedFeature
from coalmine.modeldir import Column
from coalmine_monitors._incidents import Finding
from coalmine_monitors.detectors import LOOK_BACK, ShiftDetector, e_benjamini_hochberg
from coalmine_monitors.drift._reference import Reference, streams
from coalmine_monitors.drift._statistics import location_shift, psi

__all__ = ["DriftDetector"]

#: Windows over which an effect is averaged.
RECENT = 4
#: Windows in a row without an effect that end an incident.
CALM = 3
#: Share of the features named in an incident that may be named wrongly.
FALSE_NAMES = 0.1
#: Shifts below this many spreads of the reference's windows have no direction.
_DIRECTED = 2.0

Floats = NDArray[np.float64]


class DriftDetector:
    """Tumbling windows against the reference: evidence AND effect, feature by feature.

    Each window gives every feature two numbers: its PSI (any change of shape) and, if it is
    numeric, its location (sensitive to a shift in the mean). `ShiftDetector` gathers the evidence
    that they are others than on the reference. An alarm needs its threshold, and a feature whose
    evidence is significant by e-BH and whose PSI, less the bias it has on the reference, exceeds
    `reference.threshold` on average over its windows of evidence. It lasts until no feature it
    named has half that effect, `CALM` windows in a row.
    """

    def __init__(self, reference: Reference, *, window_rows: int, run_length: int) -> None:
        count = len(reference.columns)
        self._reference = reference
        self._window_rows = window_rows
        self._run_length = run_length
        self._counts = reference.histograms.empty()
        self._rows = 0
        self._span = (math.inf, -math.inf)
        self._starts: list[float] = []
        self._effects: Floats = np.zeros((RECENT, count))
        self._blamed: NDArray[np.bool_] = np.zeros(count, dtype=np.bool_)
        self._calm = 0
        self._test = ShiftDetector(reference.baseline, run_length=run_length)
        self._windows = 0
        self.finding: Finding | None = None
        self.report: Mapping[str, Any] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features and predictions watched."""
        return self._reference.columns

    @property
    def room(self) -> int:
        """Rows until the present window is full."""
        return self._window_rows - self._rows

    @property
    def windows(self) -> int:
        """Windows judged so far."""
        return self._windows

    @property
    def score(self) -> Floats:
        """PSI less its bias [features], averaged over each feature's recent windows of evidence."""
        lengths = np.clip(self._lasting, 1, RECENT)
        recent = np.arange(RECENT)[:, None] < lengths[None, :]
        return np.asarray((self._effects * recent).sum(axis=0) / lengths, dtype=np.float64)

    @property
    def threshold(self) -> Floats:
        """The score that counts as an effect [features]."""
        return self._reference.threshold

    @property
    def evidence(self) -> Floats:
        """Evidence of each feature [features]: the mean of that of its shape and its location."""
        shape, location = self._each(self._test.evidence)
        return np.where(self._reference.numeric, (shape + location) / 2, shape)

    @property
    def _lasting(self) -> NDArray[np.int64]:
        """Windows [features] since the change that each feature has most evidence for."""
        evidence, location_evidence = self._each(self._test.evidence)
        shape, location = self._each(self._test.updates - self._test.began)
        by_location = self._reference.numeric & (location_evidence > evidence)
        return np.where(by_location, location, shape)

    def _each(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Streams as two rows of [features]; a feature without a location gets its shape twice."""
        numeric = self._reference.numeric
        shape, location = values[: numeric.size], values[: numeric.size].copy()
        location[numeric] = values[numeric.size :]
        return shape, location

    @property
    def detected(self) -> bool:
        """Whether there is drift, hysteresis included."""
        return bool(self._blamed.any())

    def update(self, rows: Floats, at: Floats) -> None:
        """Take at most `room` rows [n, columns], NaN where missing, with their record times [n]."""
        if not len(rows):
            return
        self._counts = self._counts + self._reference.histograms.count(rows)
        self._rows += len(rows)
        self._span = (min(self._span[0], float(at.min())), max(self._span[1], float(at.max())))
        if self._rows >= self._window_rows:
            self._judge()

    def _judge(self) -> None:
        reference = self._reference
        scores = psi(self._counts, reference.counts, valid=reference.histograms.valid)
        shift = location_shift(self._counts, reference.scores)
        # With most values missing there is nothing to compare; that is the quality monitor's
        # affair.
        judged = self._counts.sum(axis=-1) >= self._window_rows / 2
        shape, location = (np.where(judged, values, np.nan) for values in (np.cbrt(scores), shift))
        self._test.update(streams(shape, location, numeric=reference.numeric))
        self._windows += 1
        start, end = self._span
        self._starts = [start, *self._starts[: LOOK_BACK - 1]]
        effect = np.where(judged, scores - reference.bias, 0.0)
        self._effects = np.vstack([effect[None], self._effects[:-1]])
        self._blame()
        self._counts = reference.histograms.empty()
        self._rows, self._span = 0, (math.inf, -math.inf)
        self._conclude(effect, shift, start=start, end=end)

    def _blame(self) -> None:
        """Decide which features drift: those named by an alarm, until they are calm."""
        named = e_benjamini_hochberg(self.evidence, level=FALSE_NAMES)
        named &= self.score >= self.threshold
        if self._test.alarm and named.any():
            self._blamed = self._blamed | named
        if not self.detected:
            return
        calm = self._effects.mean(axis=0) < self.threshold / 2
        self._calm = self._calm + 1 if calm[self._blamed].all() else 0
        if self._calm >= CALM:
            # The world is as the reference again: what was learnt before does not count any more.
            self._blamed = np.zeros_like(self._blamed)
            self._calm = 0
            self._test.forget()

    def _conclude(self, effect: Floats, shift: Floats, *, start: float, end: float) -> None:
        combined, evidence = _log(self._test.combined), self.evidence
        self.report = {
            "start": start,
            "end": end,
            "log_evidence": combined,
            "log_evidence_threshold": math.log(self._run_length),
            "detected": self.detected,
            "features": {
                column.name: {
                    "score": round(float(effect[index]), 6),
                    "threshold": round(float(self.threshold[index]), 6),
                    "log_evidence": round(_log(float(evidence[index])), 6),
                    "shift": round(float(shift[index]), 6),
                }
                for index, column in enumerate(self.columns)
            },
        }
        if not self.detected:
            self.finding = Finding(detected=False, end=end)
            return
        ranked = [index for index in np.argsort(-self.score, kind="stable") if self._blamed[index]]
        features = tuple(self._affected(index, shift) for index in ranked)
        names = ", ".join(feature.name for feature in features)
        strongest = int(np.argmax(np.where(self._blamed, self.evidence, -1.0)))
        self.finding = Finding(
            detected=True,
            end=end,
            onset=self._starts[max(int(self._lasting[strongest]), 1) - 1],
            summary=f"{names} moved away from the training data",
            features=features,
            evidence={
                "log_evidence": combined,
                "log_evidence_threshold": math.log(self._run_length),
                "expected_run_length": self._run_length,
                "window": self._windows,
            },
        )

    def _affected(self, index: int, shift: Floats) -> AffectedFeature:
        baseline = self._reference.baseline
        _, usual = self._each(baseline.mean)
        _, spread = self._each(baseline.spread)
        direction: Literal["up", "down", "other"] = "other"
        distance = (shift[index] - usual[index]) / spread[index]
        if self._reference.numeric[index] and abs(distance) >= _DIRECTED:
            direction = "up" if distance > 0 else "down"
        return AffectedFeature(
            name=self.columns[index].name,
            statistic="psi",
            score=float(self.score[index]),
            threshold=float(self.threshold[index]),
            direction=direction,
        )

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "counts": self._counts.tolist(),
            "rows": self._rows,
            "span": list(self._span),
            "starts": list(self._starts),
            "effects": self._effects.tolist(),
            "blamed": self._blamed.tolist(),
            "calm": self._calm,
            "test": self._test.state(),
            "windows": self._windows,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._counts = np.array(state["counts"], dtype=np.int64)
        self._rows = int(state["rows"])
        self._span = (float(state["span"][0]), float(state["span"][1]))
        self._starts = [float(start) for start in state["starts"]]
        self._effects = np.array(state["effects"], dtype=np.float64)
        self._blamed = np.array(state["blamed"], dtype=np.bool_)
        self._calm = int(state["calm"])
        self._test.restore(state["test"])
        self._windows = int(state["windows"])


def _log(evidence: float) -> float:
    """Finite, so that it can be shown: of a shape that is as usual there is no evidence at all."""
    return math.log(max(evidence, 1e-9))
