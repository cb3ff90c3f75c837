"""The windows of one population, all rows or those of a segment, against its own reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.detectors import LOOK_BACK, ShiftDetector
from coalmine_monitors.drift._judged import Judged
from coalmine_monitors.drift._reference import Reference
from coalmine_monitors.drift._statistics import DISTANCES
from coalmine_monitors.drift._tumbling import Piece, Tumbling
from coalmine_monitors.sketches import WindowSketch, summaries

__all__ = ["RECENT", "Population"]

#: Windows over which an effect is averaged.
RECENT = 4
#: Shifts below this many spreads of the reference's windows have no direction.
_DIRECTED = 2.0
#: Most windows that are judged at once: with more, nothing gets faster.
_AT_ONCE = 64

Floats = NDArray[np.float64]


class Population:
    """Gathers evidence and effect of each of `reference.names` [names], window after window."""

    def __init__(self, reference: Reference, *, tumbling: Tumbling, run_length: int) -> None:
        extra = reference.extension
        self.reference = reference
        self.threshold = reference.threshold
        self.windows = 0
        self._tumbling = tumbling
        self._columns = len(reference.columns)
        self._empty = WindowSketch.empty(
            reference.histograms, sampled=self._columns if extra else 0
        )
        self._sketch = self._empty
        self._end = -math.inf
        self._last: tuple[Judged, int] | None = None
        self._starts: list[float] = []
        self._effects: Floats = np.zeros((RECENT, len(reference.names)))
        self.test = ShiftDetector(reference.baseline, run_length=run_length)
        self._owners = reference.owners
        self._streams = np.maximum(np.bincount(self._owners, minlength=len(reference.names)), 1)

    @property
    def rows(self) -> int:
        """Rows of the present window so far."""
        return self._sketch.rows

    @property
    def last(self) -> WindowSketch | None:
        """The window judged last; not kept over a restart."""
        return self._last[0].windows[self._last[1]] if self._last else None

    def fits(self, at: Floats) -> int:
        """How many of the rows to come, at times [n], lie in one window."""
        return self._tumbling.fits(at, held=self.rows, end=self._end)

    def update(self, rows: Floats, at: Floats) -> None:
        """Take rows [n, columns] with their times [n]; windows that they fill are judged."""
        for _ in self.feed(rows, at):
            pass

    def feed(self, rows: Floats, at: Floats) -> Iterator[int]:
        """As `update`, stopping after each judged window, at how many of the rows it ended.

        Many windows are compared at once, so that the present one is only known after the last.
        """
        pieces = self._tumbling.pieces(at, held=self.rows, end=self._end)
        # Windows end with as many pieces, give or take one.
        while group := list(islice(pieces, _AT_ONCE)):
            full, ends = self._take(rows, at, group)
            judged = Judged(self.reference, full)
            if full:
                self.test.expect(judged.values)
            for place, end in enumerate(ends):
                self._note(judged, place)
                yield end

    def _take(
        self, rows: Floats, at: Floats, pieces: Sequence[Piece]
    ) -> tuple[list[WindowSketch], list[int]]:
        """The windows that are over with some pieces of the rows, and where each ends."""
        full: list[WindowSketch] = []
        ends: list[int] = []
        known = slice(pieces[0].start, pieces[-1].stop)
        told = summaries(
            self._empty.histograms,
            rows[known],
            at[known],
            [piece.stop - known.start for piece in pieces],
        )
        for piece, summary in zip(pieces, told, strict=True):
            if piece.first:
                full.append(self._whole())
                ends.append(piece.start)
            self._sketch = self._sketch.grown(rows[piece.start : piece.stop], summary)
            self._end = piece.end
            if piece.full:
                full.append(self._whole())
                ends.append(piece.stop)
        return full, ends

    def close(self, at: float) -> bool:
        """Judge the present window if a row at a time, of whatever population, is beyond it."""
        over = self._tumbling.over(at, held=self.rows, end=self._end)
        if over and self._tumbling.seconds is not None:
            self.judge()
            return True
        return False

    def add(self, part: WindowSketch) -> bool:
        """Take a part of the present window that was counted elsewhere; whether it has enough."""
        self._sketch = self._sketch + part
        return self.rows >= self._tumbling.rows

    def empty(self) -> WindowSketch:
        """A part of a window, to be counted elsewhere."""
        return self._empty

    def judge(self) -> None:
        """End the present window."""
        judged = Judged(self.reference, [self._whole()])
        self.test.expect(judged.values)
        self._note(judged, 0)

    def _whole(self) -> WindowSketch:
        """The present window, which ends."""
        whole, self._sketch, self._end = self._sketch, self._empty, -math.inf
        return whole

    def _note(self, judged: Judged, place: int) -> None:
        """Go on by one window, whose values the test expects."""
        self._last = judged, place
        self.windows += 1
        self._starts = [judged.windows[place].first, *self._starts[: LOOK_BACK - 1]]
        self.test.advance()
        self._effects[1:] = self._effects[:-1]
        self._effects[0] = judged.effects[place]

    @property
    def effect(self) -> Floats:
        """PSI less its bias, or distance from what is usual, of the last window [names]."""
        return np.asarray(self._effects[0])

    @property
    def calm(self) -> NDArray[np.bool_]:
        """Of which there was hardly an effect in the recent windows [names]."""
        return np.asarray(self._effects.mean(axis=0) < self.threshold / 2)

    @property
    def evidence(self) -> Floats:
        """Evidence [names]: the mean of that of its streams."""
        total = np.bincount(self._owners, weights=self.test.evidence, minlength=self._streams.size)
        return np.asarray(total / self._streams)

    @property
    def lasting(self) -> NDArray[np.int64]:
        """Windows [names] since the change that there is most evidence for."""
        lasting = np.zeros(self._streams.size, dtype=np.int64)
        order = np.argsort(self.test.evidence, kind="stable")  # the last one written stays
        lasting[self._owners[order]] = (self.test.updates - self.test.began)[order]
        return lasting

    @property
    def score(self) -> Floats:
        """The effect [names], averaged over the recent windows of evidence."""
        lengths = np.clip(self.lasting, 1, RECENT)
        recent = np.arange(RECENT)[:, None] < lengths[None, :]
        return np.asarray((self._effects * recent).sum(axis=0) / lengths, dtype=np.float64)

    def onset(self, index: int) -> float:
        """Record time since when a name is different, as far as the evidence reaches back."""
        place = max(int(self.lasting[index]), 1) - 1
        return self._starts[min(place, len(self._starts) - 1)]

    def direction(self, index: int) -> Literal["up", "down", "other"]:
        """Which way a feature went in the last window."""
        if self._last is None or index >= self._columns or not self.reference.numeric[index]:
            return "other"
        judged, place = self._last
        shift = judged.locations[place, index]
        usual, spread = self.reference.location
        if not abs(shift - usual[index]) >= _DIRECTED * max(spread[index], 1e-300):
            return "other"
        return "up" if shift > usual[index] else "down"

    def distances(self) -> dict[str, Floats]:
        """Every statistic [features] of the last window, less its bias; NaN where it has none."""
        if self._last is None:
            return {}
        judged, place = self._last
        return {name: values[place] for name, values in judged.distances.items()}

    @cached_property
    def limits(self) -> dict[str, list[float]]:
        """For people: what counts as an effect, of each statistic [features]; under "" [names]."""
        usual = {name: self.reference.usual[name].threshold for name in DISTANCES}
        own = {"": self.threshold, **usual, "psi": self.threshold[: self._columns]}
        return {name: np.round(values, 6).tolist() for name, values in own.items()}

    def shift(self) -> Floats:
        """How far the mean [features] of the last window is away, in standard deviations."""
        if self._last is None:
            return np.zeros(self._columns)
        judged, place = self._last
        return np.asarray(judged.shifts[place])

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "sketch": self._sketch.state(),
            "end": self._end,
            "starts": list(self._starts),
            "effects": self._effects.tolist(),
            "test": self.test.state(),
            "windows": self.windows,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the population that gave `state`."""
        self._sketch = self._empty.restored(state["sketch"])
        self._end = float(state["end"])
        self._starts = [float(start) for start in state["starts"]]
        self._effects = np.array(state["effects"], dtype=np.float64)
        self.test.restore(state["test"])
        self.windows = int(state["windows"])
