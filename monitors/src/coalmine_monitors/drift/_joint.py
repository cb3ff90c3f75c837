"""The statistics of all columns together, as streams of the drift detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coalmine.incidents import AffectedFeature
from coalmine.modeldir import Column
from coalmine_monitors.drift._population import Population
from coalmine_monitors.drift._streams import Extend, Extension
from coalmine_monitors.multivariate import calibrate

__all__ = ["joint_features", "watch_together"]

#: Features named in an alarm that only all columns together raise: those that make most of it...
_NAMED = 5
#: ... and at least this part.
_LEAST_SHARE = 0.1

Floats = NDArray[np.float64]


def watch_together(
    columns: tuple[Column, ...], *, names: tuple[str, ...], min_effect: float
) -> Extend:
    """What makes the statistics `names` of a reference's windows."""

    def extend(windows: list[Floats]) -> Extension | None:
        made = calibrate(windows, columns, names=names, min_effect=min_effect)
        if made is None:
            return None
        joint, calm = made
        return Extension(
            names=joint.names,
            past=calm.scores,
            floor=calm.floor,
            two_sided=calm.two_sided,
            threshold=joint.threshold,
            measure=joint.measure,
            effect=joint.effects,
            contributions=lambda rows, statistic: joint.contributions(
                rows, statistic=statistic, columns=len(columns)
            ),
        )

    return extend


def joint_features(part: Population, index: int, *, since: float) -> tuple[AffectedFeature, ...]:
    """The columns that make a statistic of all of them what it is, largest contribution first.

    `index` is that of `part.reference.names`. Empty if the last window does not show it.
    """
    extension, window = part.reference.extension, part.last
    own = len(part.reference.columns)
    if extension is None or extension.contributions is None or window is None:
        return ()
    if window.sample is None:
        return ()
    sizes = extension.contributions(window.sample, index - own)
    total = float(sizes.sum())
    if total <= 0:
        return ()
    ranked = np.argsort(-sizes, kind="stable")[:_NAMED]
    # What one column does with another counts for both: two at least.
    chosen = [int(at) for at in ranked[:2]]
    chosen += [int(at) for at in ranked[2:] if sizes[at] >= _LEAST_SHARE * total]
    shift = part.shift()
    return tuple(
        AffectedFeature(
            name=part.reference.columns[at].name,
            statistic=extension.names[index - own],
            score=round(float(sizes[at]), 6),
            threshold=float(part.threshold[index]),
            direction=part.direction(at),
            contribution=round(float(sizes[at]) / total, 4),
            shift=round(float(shift[at]), 4) if part.reference.numeric[at] else None,
            onset_at=since,
        )
        for at in chosen
    )
