"""The reference of a model version, cut into contiguous windows that say what is usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._rows import matrix
from coalmine_monitors.detectors import BlockCalibration
from coalmine_monitors.drift._statistics import (
    location_scores,
    location_shift,
    null_location,
    null_psi,
    psi,
)
from coalmine_monitors.sketches import Histograms, category_edges, numeric_edges

__all__ = ["MIN_WINDOWS", "Reference", "build_reference"]

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
    shape: BlockCalibration
    """Of the cube root of PSI."""

    location: BlockCalibration
    bias: Floats
    """Mean PSI of a window on which nothing happened."""

    threshold: Floats
    """Smallest PSI, less its bias, that counts as an effect."""

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which features have a location."""
        return np.array([column.type == "numeric" for column in self.columns])


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
    bias = np.maximum(stability.mean(axis=0), null_psi(counts, window=window_rows)[0] ** 3)
    swing = np.quantile(stability - bias, SWING, axis=0, method="higher")
    return Reference(
        columns=columns,
        histograms=histograms,
        counts=counts,
        scores=location_scores(counts),
        shape=BlockCalibration.fit(
            np.cbrt(stability), floor=null_psi(counts, window=window_rows), two_sided=False
        ),
        location=BlockCalibration.fit(
            shift, floor=null_location(counts, window=window_rows), two_sided=True
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
