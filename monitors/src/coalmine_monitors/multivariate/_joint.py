"""All columns of a window together against the reference: changes that no column shows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors.multivariate._classifier import DomainClassifier
from coalmine_monitors.multivariate._encoder import FIT_ROWS, Encoder, spaced
from coalmine_monitors.multivariate._mmd import MeanDiscrepancy
from coalmine_monitors.multivariate._pca import Reconstruction
from coalmine_monitors.multivariate._statistic import Statistic

__all__ = ["STATISTICS", "Calibration", "Joint", "calibrate"]

_Kind = type[Reconstruction] | type[MeanDiscrepancy] | type[DomainClassifier]

#: What can be watched, by the name it has in the service file.
STATISTICS: dict[str, _Kind] = {
    kind.name: kind for kind in (Reconstruction, DomainClassifier, MeanDiscrepancy)
}
#: Groups of contiguous windows; each is scored by statistics that are fitted on the others.
_GROUPS = 10
#: A window of which a column misses more than this is not judged: there is nothing to compare.
_MOST_MISSING = 0.5
#: Columns that an alarm may be about.
_TRIED = 16
#: A reference's own swings, up to this quantile of its windows, are no effect.
_SWING = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Joint:
    """Statistics of all columns together. Arrays are [statistics]."""

    encoder: Encoder
    statistics: tuple[Statistic, ...]
    bias: Floats
    """Mean effect of a window on which nothing happened."""

    threshold: Floats
    """Smallest effect, less its bias, that counts."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the statistics."""
        return tuple(statistic.name for statistic in self.statistics)

    def scores(self, rows: Floats) -> Floats:
        """Of a window's rows [n, columns]; NaN if they miss too much."""
        return np.asarray(self.measure([rows])[0])

    def measure(self, windows: Sequence[Floats]) -> Floats:
        """The scores [windows, statistics] of several windows' rows, each as if it were alone."""
        scores = np.full((len(windows), len(self.statistics)), np.nan)
        ends = np.cumsum([len(rows) for rows in windows])
        encoded = np.split(self.encoder.scores(np.concatenate(windows)), ends[:-1])
        for row, rows, values in zip(scores, windows, encoded, strict=True):
            points = self._points(rows, values)
            if points is not None:
                row[:] = [statistic.score(points) for statistic in self.statistics]
        return scores

    def effects(self, scores: Floats) -> Floats:
        """Of scores [..., statistics], in units of the population stability index.

        0 where there is no score.
        """
        return np.nan_to_num(_effects(self.statistics, scores) - self.bias)

    def contributions(self, rows: Floats, *, statistic: int, columns: int) -> Floats:
        """How much of a window's effect each column [columns] makes.

        That is by how much the effect shrinks when the column alone is replaced by what the
        reference expects of it, given the row's other columns: what two columns do together counts
        for both. That takes long, so only columns whose moments moved most are tried.
        """
        parts = np.zeros(columns)
        points = self._points(rows, self.encoder.scores(rows))
        if points is None:
            return parts
        judge = self.statistics[statistic]
        whole = float(judge.effect(np.array(judge.score(points))))
        usual = np.linalg.inv(self.encoder.precision)
        moved = np.abs(points.T @ points / len(points) - usual) + np.abs(points.mean(axis=0))
        for place in np.argsort(-(moved**2).sum(axis=0), kind="stable")[:_TRIED]:
            without = judge.score(self.encoder.without(points, place))
            parts[self.encoder.used[place]] = max(
                whole - float(judge.effect(np.array(without))), 0.0
            )
        return parts

    def _points(self, rows: Floats, scores: Floats) -> Floats | None:
        """The points of a window's rows, whose scores are known; None if they miss too much."""
        if len(rows) == 0:
            return None
        # Categories that are not known have no score either, but are not missing.
        if np.isnan(scores).any():
            missing = np.isnan(rows[:, self.encoder.used]).mean(axis=0)
            if (missing > _MOST_MISSING).any():
                return None
        return self.encoder.filled(np.ascontiguousarray(scores), rows)


@dataclass(frozen=True)
class Calibration:
    """What the statistics do on the reference's own windows, for a `Baseline`."""

    scores: Floats
    """[windows, statistics], each by statistics that had not seen the window."""

    floor: tuple[Floats, Floats]
    two_sided: NDArray[np.bool_]


def calibrate(
    windows: Sequence[Floats],
    columns: tuple[Column, ...],
    *,
    names: tuple[str, ...],
    min_effect: float,
) -> tuple[Joint, Calibration] | None:
    """Fit on the windows, each rows [n, columns], of a reference in the order of time.

    Each is scored by statistics that were fitted without it, its neighbours and those beside it:
    what is close in time is alike. None if fewer than two columns say anything.
    """
    kinds = [STATISTICS[name] for name in names]
    encoder = Encoder.fit(np.concatenate(windows), columns)
    if len(encoder.scales) < 2 or not kinds:
        return None
    points = [encoder.encode(rows) for rows in windows]
    typical = int(np.median([len(rows) for rows in points]))
    statistics = tuple(kind.fit(_some(points), window=typical) for kind in kinds)
    scores = np.zeros((len(points), len(kinds)))
    for group in np.array_split(np.arange(len(points)), min(_GROUPS, len(points))):
        others = [*points[: max(group[0] - 1, 0)], *points[group[-1] + 2 :]]
        fitted = [statistic.without(_some(others)) for statistic in statistics]
        for place in group:
            scores[place] = [statistic.score(points[place]) for statistic in fitted]
    effects = _effects(statistics, scores)
    bias = effects.mean(axis=0)
    swing = np.quantile(effects - bias, _SWING, axis=0, method="higher")
    joint = Joint(encoder, statistics, bias, np.maximum(swing, min_effect))
    floor = np.array([statistic.floor for statistic in statistics]).T
    two_sided = np.array([statistic.two_sided for statistic in statistics])
    return joint, Calibration(scores, (floor[0], floor[1]), two_sided)


def _some(windows: Sequence[Floats]) -> Floats:
    return spaced(np.concatenate(windows), FIT_ROWS)


def _effects(statistics: tuple[Statistic, ...], scores: Floats) -> Floats:
    effects = [statistic.effect(scores[..., at]) for at, statistic in enumerate(statistics)]
    return np.stack(effects, axis=-1)
