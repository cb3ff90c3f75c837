"""The reference of a model version, cut into contiguous windows that say what is usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._rows import matrix
from coalmine_monitors.detectors import Baseline
from coalmine_monitors.drift._statistics import (
    location_scores,
    location_shift,
    null_location,
    null_psi,
    psi,
)
from coalmine_monitors.sketches import Histograms, category_edges, numeric_edges

__all__ = ["MIN_WINDOWS", "Reference", "build_reference", "streams"]

#: Fewer contiguous windows than this say nothing about what is usual.
MIN_WINDOWS = 10
#: A feature's own swings on the reference, up to this quantile of its windows, are no effect.
SWING = 0.95

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """What `DriftDetector` compares with. Arrays are [features] or [features, bins]."""

    columns: tuple[Column, ...]
    histograms: Histograms
    counts: Counts
    scores: Floats
    baseline: Baseline
    """Of the cube root of PSI of every feature, then of the location shift of the numeric ones."""

    bias: Floats
    """Mean PSI of a window on which nothing happened."""

    threshold: Floats
    """Smallest PSI, less its bias, that counts as an effect."""

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which features have a location."""
        return _numeric(self.columns)


def streams(shape: Floats, location: Floats, *, numeric: NDArray[np.bool_]) -> Floats:
    """What is watched [..., streams]: the shape of every feature, the location of numeric ones."""
    return np.concatenate([shape, location[..., numeric]], axis=-1)


def _numeric(columns: tuple[Column, ...]) -> NDArray[np.bool_]:
    return np.array([column.type == "numeric" for column in columns])


def build_reference(
    table: pa.Table, columns: tuple[Column, ...], *, window_rows: int, min_effect: float
) -> Reference:
    """Calibrate on a table whose rows are in time order.

    Each contiguous window is compared with the rest of the reference, its two neighbours left out:
    they are alike, and the traffic to come will be no neighbour. UnusableReferenceError if there
    are fewer than `MIN_WINDOWS` windows.
    """
    windows = table.num_rows // window_rows
    if windows < MIN_WINDOWS:
        raise UnusableReferenceError(
            f"{table.num_rows} rows are {windows} windows of {window_rows}; it takes {MIN_WINDOWS}"
        )
    rows = matrix(table, columns)[: windows * window_rows]
    histograms = Histograms(
        edges=tuple(
            category_edges(len(column.categories))
            if column.categories
            else numeric_edges(rows[:, index])
            for index, column in enumerate(columns)
        )
    )
    parts = np.stack([histograms.count(part) for part in np.split(rows, windows)])
    counts = parts.sum(axis=0)
    stability, shift = _left_out(parts, counts, valid=histograms.valid)
    shape_floor = null_psi(counts, window=window_rows)
    location_floor = null_location(counts, window=window_rows)
    bias = np.maximum(stability.mean(axis=0), shape_floor[0] ** 3)
    swing = np.quantile(stability - bias, SWING, axis=0, method="higher")
    numeric = _numeric(columns)
    return Reference(
        columns=columns,
        histograms=histograms,
        counts=counts,
        scores=location_scores(counts),
        baseline=Baseline.fit(
            streams(np.cbrt(stability), shift, numeric=numeric),
            floor=(
                streams(shape_floor[0], location_floor[0], numeric=numeric),
                streams(shape_floor[1], location_floor[1], numeric=numeric),
            ),
            two_sided=np.repeat([False, True], [len(columns), numeric.sum()]),
        ),
        bias=bias,
        threshold=np.maximum(swing, min_effect),
    )


def _left_out(parts: Counts, total: Counts, *, valid: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """PSI and location shift [windows, features] of each window against the others."""
    stability, shift = [], []
    for index, part in enumerate(parts):
        rest = total - parts[max(index - 1, 0) : index + 2].sum(axis=0)
        stability.append(psi(part, rest, valid=valid))
        shift.append(location_shift(part, location_scores(rest)))
    return np.array(stability), np.array(shift)
