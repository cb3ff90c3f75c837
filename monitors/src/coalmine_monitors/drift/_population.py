"""The windows of one population, all rows or those of a segment, against its own reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.detectors import LOOK_BACK, ShiftDetector
from coalmine_monitors.drift._reference import Reference
from coalmine_monitors.drift._statistics import DISTANCES, location_shift
from coalmine_monitors.drift._tumbling import Tumbling
from coalmine_monitors.sketches import WindowSketch

__all__ = ["RECENT", "Population"]

#: Windows over which an effect is averaged.
RECENT = 4
#: Shifts below this many spreads of the reference's windows have no direction.
_DIRECTED = 2.0

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
        self._last: WindowSketch | None = None
        self._starts: list[float] = []
        self._effects: Floats = np.zeros((RECENT, len(reference.names)))
        self.test = ShiftDetector(reference.baseline, run_length=run_length)
        owners = reference.watched.owners
        beyond = np.arange(len(extra.names) if extra else 0) + self._columns
        self._owners = np.concatenate([owners, beyond])
        self._streams = np.maximum(np.bincount(self._owners, minlength=len(reference.names)), 1)

    @property
    def rows(self) -> int:
        """Rows of the present window so far."""
        return self._sketch.rows

    @property
    def last(self) -> WindowSketch | None:
        """The window judged last; not kept over a restart."""
        return self._last

    def fits(self, at: Floats) -> int:
        """How many of the rows to come, at times [n], lie in one window."""
        return self._tumbling.fits(at, held=self.rows, end=self._end)

    def update(self, rows: Floats, at: Floats) -> None:
        """Take rows [n, columns] with their times [n]; windows that they fill are judged."""
        while len(at):
            if self._tumbling.over(float(at[0]), held=self.rows, end=self._end):
                self.judge()
            self._end = self._tumbling.end(float(at[0]), end=self._end)
            size = self.fits(at)
            self._sketch = self._sketch.after(rows[:size], at[:size])
            rows, at = rows[size:], at[size:]
            if self._tumbling.seconds is None and self.rows >= self._tumbling.rows:
                self.judge()

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
        window, reference = self._sketch, self.reference
        self._sketch, self._last, self._end = self._empty, window, -math.inf
        self.windows += 1
        self._starts = [window.first, *self._starts[: LOOK_BACK - 1]]
        values = np.full(self._owners.size, np.nan)
        effect = np.zeros(len(reference.names))
        against = reference.against((window.first + window.last) / 2)
        if against is not None:
            coarse = reference.coarse(window.counts)
            psi = DISTANCES["psi"].compute(window.counts, coarse, against)
            # With most values missing there is nothing to compare; that is the quality monitor's
            # affair.
            judged = window.present >= window.rows / 2
            own = reference.watched.streams(window.counts, coarse, against, psi=psi)
            values[: own.size] = np.where(judged[self._owners[: own.size]], own, np.nan)
            bias = reference.usual["psi"].bias
            effect[: self._columns] = np.where(judged, psi - bias, 0.0)
            self._measure(window, values[own.size :], effect[self._columns :])
        self.test.update(values)
        self._effects[1:] = self._effects[:-1]
        self._effects[0] = effect

    def _measure(self, window: WindowSketch, values: Floats, effect: Floats) -> None:
        extra = self.reference.extension
        if extra is None or window.sample is None:
            return
        values[:] = extra.measure(window.sample)
        effect[:] = np.nan_to_num(extra.effect(values))

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
        window, reference = self._last, self.reference
        if window is None or index >= self._columns or not reference.numeric[index]:
            return "other"
        against = reference.against((window.first + window.last) / 2)
        if against is None:
            return "other"
        shift = location_shift(reference.coarse(window.counts), against.scores)[index]
        usual, spread = reference.location
        if abs(shift - usual[index]) < _DIRECTED * max(spread[index], 1e-300):
            return "other"
        return "up" if shift > usual[index] else "down"

    def distances(self) -> dict[str, Floats]:
        """Every statistic [features] of the last window, less its bias; NaN where it has none."""
        window, reference = self._last, self.reference
        against = None
        if window is not None:
            against = reference.against((window.first + window.last) / 2)
        if window is None or against is None:
            return {}
        coarse, found = reference.coarse(window.counts), {}
        for name, statistic in DISTANCES.items():
            values = np.full(self._columns, np.nan)
            own = reference.watched.features(name)
            values[own] = statistic.compute(window.counts, coarse, against)[own]
            found[name] = values - reference.usual[name].bias
        return found

    def limit(self, statistic: str) -> Floats:
        """What a statistic [features] counts as an effect from."""
        if statistic == "psi":
            return self.threshold[: self._columns]
        return self.reference.usual[statistic].threshold

    def shift(self) -> Floats:
        """How far the mean [features] of the last window is away, in standard deviations."""
        window, reference = self._last, self.reference
        if window is None:
            return np.zeros(self._columns)
        mean = (window.counts * reference.centres).sum(axis=-1) / np.maximum(window.present, 1)
        scale = np.where(reference.deviation > 0, reference.deviation, 1.0)
        away = np.where(window.present > 0, (mean - reference.mean) / scale, 0.0)
        return np.where(reference.numeric, away, 0.0)

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
