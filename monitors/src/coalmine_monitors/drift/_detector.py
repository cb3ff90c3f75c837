"""Drift of the features and predictions of one model version, in all its rows and in segments."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._incidents import Finding
from coalmine_monitors.detectors import e_benjamini_hochberg
from coalmine_monitors.drift._partition import Partition
from coalmine_monitors.drift._population import Population
from coalmine_monitors.drift._reference import Reference
from coalmine_monitors.drift._segments import Segments
from coalmine_monitors.drift._tumbling import Tumbling
from coalmine_monitors.drift._verdict import Blame, found, reported
from coalmine_monitors.label_shift import BlackBoxShift

__all__ = ["DriftDetector"]

#: Windows in a row without an effect after which a feature is none of an incident's any more.
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
    exceeds `reference.threshold` on average over its windows of evidence. A feature is named
    until it has less than half that effect `CALM` windows in a row.

    Every segment has windows, evidence and effects of its own. All evidence is averaged, with
    weights, into one that is held against one threshold, when a window of all rows ends: while
    nothing happens it grows by no more than 1 in such a window, since a segment's windows have its
    share of the rows. So the declared run length holds with segments as without.
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
            name: Population(
                part,
                tumbling=Tumbling(part.window_rows if name else window_rows, seconds),
                run_length=run_length,
            )
            for name, part in parts.items()
        }
        self._weights = self._shares(len(parts) - 1)
        self._blamed = np.zeros((len(parts), len(reference.names)), dtype=np.bool_)
        self._detected = False
        self._onsets: Floats = np.full(self._blamed.shape, np.nan)
        self._idle = dict.fromkeys(parts, 0)
        self._calm: NDArray[np.int64] = np.zeros(self._blamed.shape, dtype=np.int64)
        self.finding: Finding | None = None
        self._verdict: Blame | None = None
        self._report: Mapping[str, Any] | None = None

    def _shares(self, segments: int) -> list[float]:
        """The weight [populations] of each one's evidence."""
        whole = 0.0 if self._segments.alone and segments else _WHOLE if segments else 1.0
        return [whole, *[(1 - whole) / max(segments, 1)] * segments]

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
    def log_evidence(self) -> float:
        """Of all features and segments together, as it is held against the run length."""
        return 0.0 if self._verdict is None else self._verdict.log_evidence

    @property
    def detected(self) -> bool:
        """Whether there is drift, hysteresis included."""
        return self._detected

    def fits(self, at: Floats) -> int:
        """How many of the rows to come, at record times [n], lie in one window."""
        return self._whole.fits(at)

    def update(self, rows: Floats, at: Floats) -> None:
        """Take rows [n, columns], NaN where missing, with their record times [n].

        A window by time is judged when the first row beyond it comes.
        """
        for _ in self.feed(rows, at):
            pass

    def feed(self, rows: Floats, at: Floats) -> Iterator[int]:
        """As `update`, stopping after each judged window, at how many of the rows it ended.

        The faster, the more windows' rows it gets: they are compared at once. Meanwhile only what
        is known of the last judged window may be asked for; `state`, `room` and `fits` are those
        after all rows.
        """
        if self._segments.references:
            yield from self._with_segments(rows, at)
            return
        for end in self._whole.feed(rows[:, : len(self._reference.columns)], at):
            self._conclude()
            yield end

    def _with_segments(self, rows: Floats, at: Floats) -> Iterator[int]:
        """One window of all rows after the other, each with what its segments judge meanwhile."""
        start = 0
        while start < len(rows):
            end, judged = start + self.fits(at[start:]), self.windows
            # The first row beyond a window by time ends it for everybody, whomever it belongs to.
            for name, part in self._populations.items():
                if part.close(float(at[start])):
                    self._idle[name] = 0
            if self.windows > judged:
                self._conclude()
                yield start
                judged = self.windows
            self._update(rows[start:end], at[start:end])
            start = end
            if self.windows > judged:
                self._conclude()
                yield start

    def _update(self, rows: Floats, at: Floats) -> None:
        watched = rows[:, : len(self._reference.columns)]
        self._whole.update(watched, at)
        for name, mine in self._segments.parts(rows):
            before = self._populations[name].windows
            self._populations[name].update(watched[mine], at[mine])
            if self._populations[name].windows > before:
                self._idle[name] = 0

    def partition(self) -> Partition:
        """A part of a window without rows, to be counted elsewhere."""
        sketches = {name: part.empty() for name, part in self._populations.items()}
        return Partition(sketches, self._segments, len(self._reference.columns))

    def judge(self, partition: Partition) -> None:
        """End the present window with what the parts of it, added up, have counted.

        With fewer rows than `window_rows` it goes on into the next, as a window by time does.
        """
        full = [
            name for name, part in self._populations.items() if part.add(partition.sketches[name])
        ]
        for name in full:
            self._populations[name].judge()
            self._idle[name] = 0
        if "" in full:
            self._conclude()

    def _conclude(self) -> None:
        if len(self._idle) > 1:
            self._idle = {name: count + 1 for name, count in self._idle.items()} | {"": 0}
        self._blame()
        self._verdict = Blame(
            populations=self._populations,
            weights=self._weights,
            blamed=self._blamed,
            onsets=self._onsets,
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
        for known in ("bound", "combined"):
            parts = [
                share * getattr(test, known)
                for share, test in zip(self._weights, tests, strict=True)
            ]
            if sum(parts) < self._run_length:
                return False
        return True

    def _blame(self) -> None:
        """Decide what drifts where: what an alarm names, until it is calm.

        The arrays are made anew when they change: the verdict on a window keeps its own.
        """
        parts = list(self._populations.values())
        if self._alarm():
            evidence = self._wide([part.evidence for part in parts])
            evidence *= np.array(self._weights)[:, None]
            named = e_benjamini_hochberg(evidence.ravel() * len(parts), level=FALSE_NAMES)
            large = self._wide([part.score >= part.threshold for part in parts]) > 0
            fresh = named.reshape(large.shape) & large & ~self._blamed
            self._onsets = self._onsets.copy()
            for place, index in np.argwhere(fresh).tolist():
                self._onsets[place, index] = parts[place].onset(index)
            self._blamed = self._blamed | fresh
            self._detected = bool(self._blamed.any())
        if not self._detected:
            return
        calm = self._wide([part.calm for part in parts]) > 0
        self._calm = np.where(self._blamed & calm, self._calm + 1, 0)
        self._blamed = self._blamed & (self._calm < CALM) & ~self._gone()[:, None]
        self._onsets = np.where(self._blamed, self._onsets, np.nan)
        self._detected = bool(self._blamed.any())
        if not self._detected:
            # The world is as the reference again: what was learnt before does not count any more.
            self._calm = np.zeros_like(self._calm)
            for part in parts:
                part.test.forget()

    def _wide(self, rows: list[NDArray[Any]]) -> Floats:
        """Of each population as [names]; segments have no statistics of all columns together."""
        wide = np.zeros((len(rows), len(self._reference.names)))
        for row, values in zip(wide, rows, strict=True):
            row[: values.size] = values
        return wide

    def _gone(self) -> NDArray[np.bool_]:
        """The segments that send nothing any more: nobody can say that they drift."""
        known = [part.reference for part in self._populations.values()]
        windows = np.array([part.rows / part.window_rows for part in known])
        idle = np.array([*self._idle.values()])
        return np.asarray(idle > 1 + _LATE * np.ceil(windows[0] / windows))

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
            "onsets": [[None if np.isnan(at) else at for at in row] for row in self._onsets],
            "idle": self._idle,
            "calm": self._calm.tolist(),
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
        self._detected = bool(self._blamed.any())
        self._onsets = np.array(state["onsets"], dtype=np.float64)
        self._idle = {name: int(state["idle"][name]) for name in self._idle}
        self._calm = np.array(state["calm"], dtype=np.int64)
