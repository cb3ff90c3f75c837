"""Segments of a table: a model may be better on the whole and much worse for some.

A segmentation is written as a text, so that a pipeline can loop over several: `class` (by the true
class), or a feature with the edges that cut it, as `temperature_mean: 5, 30`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from coalmine.retraining._errors import DataInvalid
from coalmine.retraining.learning._evaluate import compare
from coalmine.retraining.learning._rows import TRUE_LABEL, values

if TYPE_CHECKING:
    import pyarrow as pa

BY_CLASS = "class"


@dataclass(frozen=True, slots=True)
class Segmentation:
    """One way to cut a table into segments."""

    feature: str
    """A column of the table; `class` for the true label."""

    edges: tuple[float, ...] = ()
    """Rising; a value that equals an edge belongs above it."""

    @staticmethod
    def parse(text: str) -> Segmentation:
        """From `class` or `feature: edge, edge`; ValueError says what is wrong.

        >>> Segmentation.parse("soc: 0.2, 0.8").names()
        ('soc < 0.2', '0.2 <= soc < 0.8', 'soc >= 0.8', 'soc missing')
        """
        feature, _, rest = text.partition(":")
        feature = feature.strip()
        if feature == BY_CLASS and not rest.strip():
            return Segmentation(BY_CLASS)
        try:
            edges = tuple(float(edge) for edge in rest.split(","))
        except ValueError:
            edges = ()
        if not feature or not edges or not all(map(isfinite, edges)):
            raise ValueError(f"segment {text!r}: wanted `class`, or `feature: edge, edge`")
        if list(edges) != sorted(set(edges)):
            raise ValueError(f"segment {text!r}: edges must rise")
        return Segmentation(feature, edges)

    def names(self) -> tuple[str, ...]:
        """The segments between the edges, then that of missing values."""
        name, shown = self.feature, [f"{edge:g}" for edge in self.edges]
        between = [f"{a} <= {name} < {b}" for a, b in zip(shown, shown[1:], strict=False)]
        return (f"{name} < {shown[0]}", *between, f"{name} >= {shown[-1]}", f"{name} missing")

    def masks(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """The rows of each segment that has some, bool [rows]."""
        if self.feature == BY_CLASS:
            label = values(rows, TRUE_LABEL).astype(str)
            return {f"class {name}": label == name for name in np.unique(label)}
        if self.feature not in rows.column_names:
            raise DataInvalid(f"segment {self.feature!r}: no such feature", report="")
        value = values(rows, self.feature).astype(np.float64)
        place = np.searchsorted(np.array(self.edges), value, side="right")
        place[np.isnan(value)] = len(self.edges) + 1
        found = {name: place == index for index, name in enumerate(self.names())}
        return {name: mask for name, mask in found.items() if mask.any()}


def judge_segments(
    masks: Mapping[str, np.ndarray],
    *,
    new_right: np.ndarray,
    old_right: np.ndarray,
    groups: np.ndarray,
) -> list[dict[str, Any]]:
    """The paired comparison within each segment, for the report.

    `p_mostly_right` is the probability of so many uploads, or more, of which the candidate has most
    rows wrong, if it had most right of half of them: what judges it where there is no champion.
    """
    judged = []
    for name, mask in masks.items():
        right = new_right[mask]
        paired = compare(right, old_right[mask], groups=groups[mask])
        judged.append(
            {
                "segment": name,
                "candidate_accuracy": float(right.mean()),
                "champion_accuracy": float(old_right[mask].mean()),
                "p_mostly_right": compare(right, ~right, groups=groups[mask]).p_not_worse,
                **paired.as_dict(),
            }
        )
    return judged


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values for all of a family at once (Holm 1979, https://www.jstor.org/stable/4615733).

    A true hypothesis among them is below 0.05 in at most one family of twenty.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
