"""Windows compared with their reference, many at once: what numpy does costs by the call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.drift._reference import Reference
from coalmine_monitors.drift._statistics import DISTANCES, Against, location_shift
from coalmine_monitors.sketches import WindowSketch

__all__ = ["Judged"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """Some whole windows. A window's numbers do not depend on which others it is judged with."""

    reference: Reference
    windows: Sequence[WindowSketch]

    @cached_property
    def _fine(self) -> Counts:
        """[windows, features, bins]"""
        return np.stack([window.counts for window in self.windows])

    @cached_property
    def _coarse(self) -> Counts:
        # In one order in memory, however many windows there are: sums come out by it.
        return np.ascontiguousarray(self.reference.coarse(self._fine))

    @cached_property
    def present(self) -> Counts:
        """Values [windows, features] that are not missing."""
        return np.asarray(self._fine.sum(axis=-1))

    def _phases(self) -> Iterator[tuple[Against, list[int] | slice]]:
        """What windows are compared with, and which; not those that there is nothing like."""
        if not self.reference.season.period:
            yield self.reference.parts[0], slice(None)
            return
        found: dict[int, list[int]] = {}
        for place, window in enumerate(self.windows):
            phase = self.reference.season.phase((window.first + window.last) / 2)
            if phase is not None:
                found.setdefault(phase, []).append(place)
        for phase, places in found.items():
            yield self.reference.parts[phase], places

    @cached_property
    def values(self) -> Floats:
        """The streams [windows, streams] that evidence is gathered of; NaN of those without."""
        watched, owners = self.reference.watched, self.reference.owners
        own = watched.owners.size
        values = np.full((len(self.windows), owners.size), np.nan)
        # With most values missing there is nothing to compare; that is the quality monitor's
        # affair.
        enough = (2 * self.present >= self._rows)[:, owners[:own]]
        for against, places in self._phases():
            fine, coarse = self._fine[places], self._coarse[places]
            streams = watched.streams(fine, coarse, against, psi=self._psi[places])
            values[places, :own] = np.where(enough[places], streams, np.nan)
            self._together(places, values[:, own:])
        return values

    def _together(self, places: list[int] | slice, values: Floats) -> None:
        extra = self.reference.extension
        if extra is None:
            return
        windows = np.array(self.windows, dtype=object)[places]
        known = [window.sample for window in windows if window.sample is not None]
        if len(known) == len(windows):
            values[places] = extra.measure(known)

    @cached_property
    def effects(self) -> Floats:
        """PSI less its bias, or the distance from what is usual, [windows, names]."""
        columns, extra = len(self.reference.columns), self.reference.extension
        effects = np.zeros((len(self.windows), len(self.reference.names)))
        away = self._psi - self.reference.usual["psi"].bias
        unknown = np.isnan(away) | (2 * self.present < self._rows)
        effects[:, :columns] = np.where(unknown, 0.0, away)
        if extra is not None:
            together = self.values[:, -len(extra.names) :]
            effects[:, columns:] = np.nan_to_num(extra.effect(together))
        return effects

    @cached_property
    def distances(self) -> dict[str, Floats]:
        """Every statistic [windows, features], less its bias; NaN where it has none."""
        return {name: self._distance(name) - self.reference.usual[name].bias for name in DISTANCES}

    @cached_property
    def _psi(self) -> Floats:
        return self._distance("psi")

    def _distance(self, name: str) -> Floats:
        values = np.full((len(self.windows), len(self.reference.columns)), np.nan)
        own = np.isin(np.arange(values.shape[1]), self.reference.watched.features(name))
        for against, places in self._phases():
            fine, coarse = self._fine[places], self._coarse[places]
            found = DISTANCES[name].compute(fine, coarse, against)
            values[places] = np.where(own, found, np.nan)
        return values

    @cached_property
    def locations(self) -> Floats:
        """How far the ranks [windows, features] moved; NaN where there is nothing to compare."""
        values = np.full((len(self.windows), len(self.reference.columns)), np.nan)
        for against, places in self._phases():
            values[places] = location_shift(self._coarse[places], against.scores)
        return values

    @cached_property
    def shifts(self) -> Floats:
        """How far the means [windows, features] are away, in standard deviations."""
        reference = self.reference
        mean = (self._fine * reference.centres).sum(axis=-1) / np.maximum(self.present, 1)
        scale = np.where(reference.deviation > 0, reference.deviation, 1.0)
        away = np.where(self.present > 0, (mean - reference.mean) / scale, 0.0)
        return np.where(reference.numeric, away, 0.0)

    @cached_property
    def _rows(self) -> Counts:
        return np.array([window.rows for window in self.windows])[:, None]
