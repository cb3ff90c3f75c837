"""Drift of the features and predictions of one model version, in all its rows and in segments."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._incidents import Finding
from coalmine_monitors.detectors import e_benjamini_hochberg
from coalmine_monitors.drift._population import Population
from coalmine_monitors.drift._reference import Reference
from coalmine_monitors.drift._segments import Segments
from coalmine_monitors.drift._tumbling import Tumbling
from coalmine_monitors.drift._verdict import Blame, found, reported
from coalmine_monitors.label_shift import BlackBoxShift

__all__ = ["DriftDetector"]

#: Windows in a row without an effect that end an incident.
CALM = 3
#: Share of the features named in an incident that may be named wrongly.
FALSE_NAMES = 0.1
#: Part of the evidence that all rows together make; the segments share the rest. Half, so that
#: watching segments costs a shift of everything no more than a factor of two.
_WHOLE = 0.5
#: Windows of its own that a segment may be late before it counts as gone.
_LATE = 5

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]


class DriftDetector:
    """Tumbling windows against the reference: evidence AND effect, feature by feature.

    Each window gives every feature some numbers: by default its PSI (any change of shape) and, if
    it is numeric, its location (sensitive to a shift in the mean). `ShiftDetector` gathers the
    evidence that they are others than on the reference. An alarm needs its threshold, and a feature
    whose evidence is significant by e-BH and whose PSI, less the bias it has on the reference,
    exceeds `reference.threshold` on average over its windows of evidence. It lasts until no feature
    it named has half that effect, `CALM` windows in a row.

    Every segment has windows, evidence and effects of its own. All evidence is averaged, with
    weights, into one that is held against one threshold, when a window of all rows ends: while
    nothing happens it grows by no more than 1 in such a window, since each column's segments have
    together as many rows. So the declared run length holds with segments as without.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        window_rows: int,
        run_length: int,
        seconds: float | None = None,
        segments: Segments | None = None,
        label_shift: BlackBoxShift | None = None,
    ) -> None:
        self._reference = reference
        self._tumbling = Tumbling(window_rows, seconds)
        self._run_length = run_length
        self._segments = segments or Segments()
        self._label_shift = label_shift
        parts = {"": reference, **(self._segments.references or {})}
        self._populations = {
            name: Population(part, tumbling=self._tumbling, run_length=run_length)
            for name, part in parts.items()
        }
        self._weights = self._shares(len(parts) - 1)
        self._blamed = np.zeros((len(parts), len(reference.names)), dtype=np.bool_)
        self._idle = np.zeros(len(parts), dtype=np.int64)
        self._calm = 0
        self.finding: Finding | None = None
        self._verdict: Blame | None = None
        self._report: Mapping[str, Any] | None = None

    def _shares(self, segments: int) -> Floats:
        """The weight [populations] of each one's evidence."""
        whole = 0.0 if self._segments.alone and segments else _WHOLE if segments else 1.0
        return np.array([whole, *[(1 - whole) / max(segments, 1)] * segments])

    @property
    def columns(self) -> tuple[Column, ...]:
        """What `update` takes: the features and predictions watched, then what segments need."""
        return (*self._reference.columns, *self._segments.columns)

    @property
    def watched(self) -> tuple[str, ...]:
        """What an alarm may name."""
        return self._reference.names

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reference cannot say."""
        return self._reference.warnings

    @property
    def _whole(self) -> Population:
        return self._populations[""]

    @property
    def windows(self) -> int:
        """Windows of all rows judged so far."""
        return self._whole.windows

    @property
    def room(self) -> int:
        """Rows until the present window is full, if windows end after a number of rows."""
        return self._tumbling.rows - self._whole.rows

    @property
    def score(self) -> Floats:
        """PSI less its bias [names], averaged over each feature's recent windows of evidence."""
        return self._whole.score

    @property
    def threshold(self) -> Floats:
        """The score that counts as an effect [names]."""
        return self._whole.threshold

    @property
    def evidence(self) -> Floats:
        """Evidence of each feature [names], in all rows."""
        return self._whole.evidence

    @property
    def detected(self) -> bool:
        """Whether there is drift, hysteresis included."""
        return bool(self._blamed.any())

    def fits(self, at: Floats) -> int:
        """How many of the rows to come, at record times [n], lie in one window."""
        return self._whole.fits(at)

    def update(self, rows: Floats, at: Floats) -> None:
        """Take rows [n, columns], NaN where missing, with their record times [n].

        At most as many as `fits`. A window by time is judged when the first row beyond it comes.
        """
        if not len(rows):
            return
        judged = self._whole.windows
        watched = rows[:, : len(self._reference.columns)]
        self._whole.update(watched, at)
        if self._tumbling.seconds is not None and self._whole.windows > judged:
            self._conclude()  # before the rows of the next window reach the segments
            judged = self._whole.windows
        for name, mine in self._segments.parts(rows):
            population = self._populations[name]
            before = population.windows
            population.update(watched[mine], at[mine])
            if population.windows > before:
                self._idle[list(self._populations).index(name)] = 0
        if self._whole.windows > judged:
            self._conclude()

    def _conclude(self) -> None:
        self._idle += 1
        self._idle[0] = 0
        self._blame()
        self._verdict = Blame(
            populations=self._populations,
            weights=self._weights,
            blamed=self._blamed.copy(),
            segments=self._segments,
            run_length=self._run_length,
            label_shift=self._label_shift,
        )
        calm = Finding(detected=False, end=self._verdict.end)
        self.finding = found(self._verdict) if self.detected else calm
        # Segments go on while the last window is looked at; all rows together do not.
        self._report = reported(self._verdict) if self._segments.references else None

    def _alarm(self) -> bool:
        tests = [population.test for population in self._populations.values()]
        # No evidence exceeds its bound, which costs less to know.
        if self._weights @ [test.bound for test in tests] < self._run_length:
            return False
        return bool(self._weights @ [test.combined for test in tests] >= self._run_length)

    def _blame(self) -> None:
        """Decide what drifts where: what an alarm names, until it is calm."""
        parts = list(self._populations.values())
        if self._alarm():
            evidence = self._wide([part.evidence for part in parts]) * self._weights[:, None]
            named = e_benjamini_hochberg(evidence.ravel() * len(parts), level=FALSE_NAMES)
            large = self._wide([part.score >= part.threshold for part in parts])
            self._blamed = self._blamed | (named.reshape(large.shape) & (large > 0))
        if not self.detected:
            return
        calm = self._wide([part.calm for part in parts]) > 0
        # A segment that sends nothing any more is not drifting.
        usual = parts[0].reference.rows / np.array([part.reference.rows for part in parts])
        calm |= (self._idle > _LATE * np.ceil(usual))[:, None]
        self._calm = self._calm + 1 if calm[self._blamed].all() else 0
        if self._calm >= CALM:
            # The world is as the reference again: what was learnt before does not count any more.
            self._blamed = np.zeros_like(self._blamed)
            self._calm = 0
            for part in parts:
                part.test.forget()

    def _wide(self, rows: list[NDArray[Any]]) -> Floats:
        """Of each population as [names]; segments have no statistics of all columns together."""
        wide = np.zeros((len(rows), len(self._reference.names)))
        for row, values in zip(wide, rows, strict=True):
            row[: values.size] = values
        return wide

    @property
    def report(self) -> Mapping[str, Any]:
        """Numbers of the last judged window, to be looked at; none after a restart."""
        if self._report is None:
            self._report = {} if self._verdict is None else reported(self._verdict)
        return self._report

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "layout": self._layout,
            "populations": {name: part.state() for name, part in self._populations.items()},
            "blamed": self._blamed.tolist(),
            "idle": self._idle.tolist(),
            "calm": self._calm,
        }

    @property
    def _layout(self) -> list[Any]:
        """What a state is only good for."""
        watched = self._reference.watched
        names = list(self._reference.names)
        return [names, list(watched.statistics), list(self._populations), self._reference.rows]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`; one of other settings has nothing to say to us."""
        if state.get("layout") != self._layout:
            _log.warning("drift: other settings or another reference: evidence begins anew")
            return
        for name, part in self._populations.items():
            part.restore(state["populations"][name])
        self._blamed = np.array(state["blamed"], dtype=np.bool_)
        self._idle = np.array(state["idle"], dtype=np.int64)
        self._calm = int(state["calm"])
