"""What an alarm says to people: which features, which way, how far, since when, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.incidents import AffectedFeature
from coalmine_monitors._incidents import Finding
from coalmine_monitors.drift._classes import class_report
from coalmine_monitors.drift._joint import joint_features
from coalmine_monitors.drift._population import Population
from coalmine_monitors.drift._segments import Segments
from coalmine_monitors.label_shift import BlackBoxShift
from coalmine_monitors.sketches import WindowSketch

__all__ = ["Blame", "found", "reported"]

Floats = NDArray[np.float64]

#: Evidence that is shown as such.
_LEAST = 1e-9


@dataclass(frozen=True)
class Blame:
    """The state of all populations when a window ended."""

    populations: Mapping[str, Population]
    """All rows, under the name "", then the segments."""

    weights: Sequence[float]
    """Of their evidence [populations]."""

    blamed: NDArray[np.bool_]
    """[populations, names]."""

    onsets: Floats
    """Since when [populations, names], as it was when each was blamed; NaN of the others."""

    segments: Segments
    run_length: int
    label_shift: BlackBoxShift | None = None

    @property
    def whole(self) -> Population:
        """All rows."""
        return self.populations[""]

    @property
    def combined(self) -> float:
        """The evidence that is held against the run length."""
        tests = (part.test.combined for part in self.populations.values())
        return sum(weight * each for weight, each in zip(self.weights, tests, strict=True))

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of it; finite, so that it can be shown."""
        return _log(self.combined)

    @property
    def end(self) -> float:
        """Record time of the end of the window."""
        return self.whole.last.last if self.whole.last else 0.0


def found(blame: Blame) -> Finding:
    """The finding that there is drift: one cause, its features ranked by what they contribute.

    Statistics of all columns together name features of their own only where no feature alone moved:
    else they say the same again.
    """
    columns = len(blame.whole.reference.columns)
    blamed = [int(index) for index in np.flatnonzero(blame.blamed.any(axis=0))]
    alone = [index for index in blamed if index < columns]
    strongest = {index: _where(blame, index) for index in alone or blamed}
    parts = {index: blame.populations[name] for index, name in strongest.items()}
    size = {
        index: max(float(part.score[index] / max(part.threshold[index], 1e-9)), 0.0)
        for index, part in parts.items()
    }
    total = sum(size.values()) or 1.0
    ranked = sorted(strongest, key=lambda index: -size[index])
    features = tuple(
        _affected(blame, index, strongest[index], share=size[index] / total) for index in ranked
    )
    if not alone:
        first = ranked[0]
        features = joint_features(parts[first], first, since=_since(blame, first)) or features
    onsets = [feature.onset_at for feature in features if feature.onset_at is not None]
    joint = [blame.whole.reference.names[index] for index in blamed if index >= columns]
    return Finding(
        detected=True,
        end=blame.end,
        onset=min(onsets),
        summary=_summary(features, alone=bool(alone)),
        features=features,
        evidence={
            "log_evidence": blame.log_evidence,
            "log_evidence_threshold": math.log(blame.run_length),
            "expected_run_length": blame.run_length,
            "window": blame.whole.windows,
            **({"together": joint} if joint else {}),
        },
    )


def _summary(features: tuple[AffectedFeature, ...], *, alone: bool) -> str:
    names = ", ".join(feature.name for feature in features)
    if not alone:
        return f"{names} go together otherwise than in the training data; none of them moved alone"
    where = sorted({segment for feature in features for segment in feature.segments})
    confined = bool(where) and all(feature.segments for feature in features)
    return f"{names} moved away from the training data" + (
        f", in {', '.join(where)}" if confined else ""
    )


def _where(blame: Blame, index: int) -> str:
    """The population that says most about the drift of a name: where it is confined to, if so."""
    names = list(blame.populations)
    blamed = [name for place, name in enumerate(names) if blame.blamed[place, index]]
    confined = _confined(blame, index)
    if "" in blamed and not confined:
        return ""
    return max(confined or blamed, key=lambda name: float(blame.populations[name].evidence[index]))


def _affected(blame: Blame, index: int, where: str, *, share: float) -> AffectedFeature:
    part = blame.populations[where]
    columns = part.reference.columns
    own = index < len(columns)
    shift = float(part.shift()[index]) if own and part.reference.numeric[index] else None
    return AffectedFeature(
        name=part.reference.names[index],
        statistic="psi" if own else part.reference.names[index],
        score=float(part.score[index]),
        threshold=float(part.threshold[index]),
        direction=part.direction(index),
        contribution=round(share, 4),
        shift=None if shift is None else round(shift, 4),
        onset_at=_since(blame, index),
        segments=_confined(blame, index),
    )


def _since(blame: Blame, index: int) -> float:
    return float(np.nanmin(blame.onsets[:, index]))


def _confined(blame: Blame, index: int) -> tuple[str, ...]:
    """The segments that a drift is confined to; none if it is everywhere, or nobody knows yet.

    A shift of everything moves most segments of a column, one of a few segments moves all rows
    together too.
    """
    names = list(blame.populations)
    moved = {name for place, name in enumerate(names) if name and blame.blamed[place, index]}
    few = set()
    for name in moved:
        siblings = blame.segments.siblings(name)
        if 2 * len(moved.intersection(siblings)) <= len(siblings):
            few.add(name)
    return tuple(name for name in names if name in few)


def reported(blame: Blame) -> dict[str, Any]:
    """Numbers of a window, to be looked at."""
    part, window = blame.whole, blame.whole.last
    assert window is not None
    columns, basics = part.reference.columns, _basics(part)
    return {
        "start": window.first,
        "end": window.last,
        "rows": window.rows,
        "log_evidence": blame.log_evidence,
        "log_evidence_threshold": math.log(blame.run_length),
        "detected": bool(blame.blamed.any()),
        "features": _features(part, window, basics),
        "together": {name: basics[name] for name in part.reference.names[len(columns) :]},
        "classes": class_report(blame.label_shift, columns, window.counts),
        "segments": {
            name: _segment(segment, blame.blamed[place, : len(segment.reference.names)])
            for place, (name, segment) in enumerate(blame.populations.items())
            if name
        },
    }


def _basics(part: Population) -> dict[str, dict[str, float]]:
    """Of each name."""
    logs = np.log(np.maximum(part.evidence, _LEAST))
    rows = zip(
        part.reference.names, _shown(part.effect), part.limits[""], _shown(logs), strict=True
    )
    return {
        name: {"score": score, "threshold": threshold, "log_evidence": log}
        for name, score, threshold, log in rows
    }


def _features(
    part: Population, window: WindowSketch, basics: Mapping[str, dict[str, float]]
) -> dict[str, Any]:
    distances = {name: _shown(values) for name, values in part.distances().items()}
    limits = part.limits
    missing = _shown(1 - window.present / window.rows)
    features: dict[str, Any] = {}
    for index, (column, shift) in enumerate(
        zip(part.reference.columns, _shown(part.shift()), strict=True)
    ):
        has = [name for name, values in distances.items() if not math.isnan(values[index])]
        features[column.name] = {
            **basics[column.name],
            "shift": shift,
            "missing": missing[index],
            "statistics": {name: distances[name][index] for name in has},
            "thresholds": {name: limits[name][index] for name in has},
        }
    return features


def _shown(values: Floats) -> list[float]:
    rounded: list[float] = np.round(values, 6).tolist()
    return rounded


def _segment(part: Population, blamed: NDArray[np.bool_]) -> dict[str, Any]:
    names, effect = part.reference.names, part.effect
    largest = int(np.argmax(effect - part.threshold))
    return {
        "windows": part.windows,
        "log_evidence": round(_log(part.test.combined), 6),
        "feature": names[largest],
        "score": round(float(effect[largest]), 6),
        "threshold": round(float(part.threshold[largest]), 6),
        "drifting": [name for name, named in zip(names, blamed, strict=True) if named],
    }


def _log(evidence: float) -> float:
    """Finite, so that it can be shown: of a shape that is as usual there is no evidence at all."""
    return math.log(max(evidence, _LEAST))
