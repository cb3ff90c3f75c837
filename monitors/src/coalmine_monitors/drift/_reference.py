"""The reference of a model version: what a window is compared with, and what is usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors.detectors import Baseline
from coalmine_monitors.drift._season import Season
from coalmine_monitors.drift._statistics import DISTANCES, LOCATION, Against, location_shift
from coalmine_monitors.drift._streams import Extension
from coalmine_monitors.sketches import Histograms, Quantiles, pooled

__all__ = ["Reference", "Usual", "Watched"]

_FORMAT = 1

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Watched:
    """Which statistics of which columns evidence is gathered of: the streams, in this order."""

    columns: tuple[Column, ...]
    statistics: tuple[str, ...]

    @cached_property
    def numeric(self) -> NDArray[np.bool_]:
        """Which columns have a location [features]."""
        return np.array([column.type == "numeric" for column in self.columns])

    def features(self, statistic: str) -> NDArray[np.intp]:
        """The columns that have a statistic."""
        return self._features[statistic]

    @cached_property
    def _features(self) -> dict[str, NDArray[np.intp]]:
        types = {name: statistic.types for name, statistic in DISTANCES.items()}
        return {
            name: np.flatnonzero([column.type in known for column in self.columns])
            for name, known in {**types, LOCATION: ("numeric",)}.items()
        }

    @property
    def owners(self) -> NDArray[np.intp]:
        """The column [streams] that each stream is of."""
        return np.concatenate([self.features(statistic) for statistic in self.statistics])

    def row(self, values: Mapping[str, Floats]) -> Floats:
        """Values [..., features] of each statistic as streams [..., streams]."""
        return np.concatenate(
            [values[name][..., self.features(name)] for name in self.statistics], axis=-1
        )

    def streams(
        self, fine: Counts, coarse: Counts, to: Against, *, psi: Floats | None = None
    ) -> Floats:
        """The streams [..., streams] of windows, made nearly normal; `psi` if it is known."""
        values = {}
        for name in self.statistics:
            if name == LOCATION:
                values[name] = location_shift(coarse, to.scores)
                continue
            statistic = DISTANCES[name]
            known = psi if name == "psi" else None
            values[name] = statistic.transform(
                statistic.compute(fine, coarse, to) if known is None else known
            )
        return self.row(values)


@dataclass(frozen=True)
class Usual:
    """What a statistic is on the reference's windows. Arrays are [features]."""

    bias: Floats
    """Its mean while nothing happens."""

    threshold: Floats
    """What it exceeds, less the bias, in one window of twenty of the reference."""


@dataclass(frozen=True)
class Reference:
    """What `DriftDetector` compares with. Arrays are [features] or [features, bins]."""

    watched: Watched
    window_rows: int
    histograms: Histograms
    bins: Histograms
    """The coarse ones, of PSI: some of the edges of `histograms`."""

    parts: tuple[Against, ...]
    """One for each phase of the season."""

    baseline: Baseline
    """Of the streams, then of the extension's."""

    usual: Mapping[str, Usual]
    min_effect: float
    """Smallest PSI, less its bias, that counts as an effect."""

    location: tuple[Floats, Floats]
    """Mean and spread of the location shift from window to window."""

    centres: Floats
    """Mean value of each fine bin."""

    mean: Floats
    deviation: Floats
    correlation: Floats
    """Of the columns' ranks [features, features]: how they hang together."""

    rows: int
    missing: Floats
    """Share of missing values."""

    quantiles: tuple[Quantiles | None, ...]
    """Of the numeric columns."""

    season: Season = Season(0.0)
    warnings: tuple[str, ...] = ()
    extension: Extension | None = field(default=None, compare=False)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is watched: features, then predictions."""
        return self.watched.columns

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which columns have a location."""
        return self.watched.numeric

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of what an alarm may be about: the columns, then the extension's streams."""
        extra = self.extension.names if self.extension else ()
        return (*(column.name for column in self.columns), *extra)

    @cached_property
    def owners(self) -> NDArray[np.intp]:
        """Which of `names` each stream [streams] is of."""
        extra = len(self.extension.names) if self.extension else 0
        return np.concatenate([self.watched.owners, np.arange(extra) + len(self.columns)])

    @cached_property
    def threshold(self) -> Floats:
        """PSI less its bias, or the extension's distance, that counts as an effect [names]."""
        own = np.maximum(self.usual["psi"].threshold, self.min_effect)
        return np.concatenate([own, self.extension.threshold]) if self.extension else own

    def coarse(self, fine: Counts) -> Counts:
        """Counts of the bins that PSI is made of."""
        return pooled(fine, self._places)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", self.histograms.pooling(self.bins))

    _places: NDArray[np.intp] = field(init=False, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, to be stored with the model version; an extension is fitted anew."""
        return {
            "format": _FORMAT,
            "columns": [column.model_dump(mode="json") for column in self.columns],
            "statistics": list(self.watched.statistics),
            "window_rows": self.window_rows,
            "edges": [edge.tolist() for edge in self.histograms.edges],
            "bins": [edge.tolist() for edge in self.bins.edges],
            "counts": [part.fine.tolist() for part in self.parts],
            "centres": self.centres.tolist(),
            "baseline": self.baseline.to_dict(),
            "usual": {
                name: {"bias": usual.bias.tolist(), "threshold": usual.threshold.tolist()}
                for name, usual in self.usual.items()
            },
            "min_effect": self.min_effect,
            "location": [values.tolist() for values in self.location],
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "correlation": self.correlation.tolist(),
            "rows": self.rows,
            "missing": self.missing.tolist(),
            "quantiles": [item.to_text() if item else None for item in self.quantiles],
            "season": {
                "period": self.season.period,
                "phases": self.season.phases,
                "covered": list(self.season.covered),
            },
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Reference:
        """The reference that gave `saved`; UnusableReferenceError if it is of another version."""
        if saved.get("format") != _FORMAT:
            raise UnusableReferenceError(
                f"it has format {saved.get('format')!r}, this monitor reads {_FORMAT}: "
                "build the reference again"
            )
        columns = tuple(Column.model_validate(item) for item in saved["columns"])
        histograms = Histograms(edges=tuple(np.array(edge, float) for edge in saved["edges"]))
        bins = Histograms(edges=tuple(np.array(edge, float) for edge in saved["bins"]))
        centres, deviation = np.array(saved["centres"]), np.array(saved["deviation"])
        season = saved["season"]
        return cls(
            watched=Watched(columns, tuple(saved["statistics"])),
            window_rows=int(saved["window_rows"]),
            histograms=histograms,
            bins=bins,
            parts=tuple(
                make_part(np.array(counts, np.int64), histograms, bins, centres, deviation)
                for counts in saved["counts"]
            ),
            baseline=Baseline.from_dict(saved["baseline"]),
            usual={
                name: Usual(np.array(item["bias"]), np.array(item["threshold"]))
                for name, item in saved["usual"].items()
            },
            min_effect=float(saved["min_effect"]),
            location=(np.array(saved["location"][0]), np.array(saved["location"][1])),
            centres=centres,
            mean=np.array(saved["mean"]),
            deviation=deviation,
            correlation=np.array(saved["correlation"]),
            rows=int(saved["rows"]),
            missing=np.array(saved["missing"]),
            quantiles=tuple(
                Quantiles.from_text(text) if text else None for text in saved["quantiles"]
            ),
            season=Season(season["period"], season["phases"], tuple(season["covered"])),
            warnings=tuple(saved["warnings"]),
        )


def make_part(
    fine: Counts, histograms: Histograms, bins: Histograms, centres: Floats, deviation: Floats
) -> Against:
    """What a window is compared with, from fine counts [..., features, bins]."""
    return Against(
        fine=fine,
        coarse=pooled(fine, histograms.pooling(bins)),
        valid=bins.valid,
        gaps=np.diff(centres, axis=-1) / np.where(deviation > 0, deviation, 1.0)[:, None],
    )
