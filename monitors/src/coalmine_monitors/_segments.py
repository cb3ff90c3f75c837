"""Segments: parts of the traffic that are looked at apart, cut by single features.

Their number is known beforehand, from the service file and the model's categories, so that what is
kept of them and exported is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine.spec import SegmentColumnSpec
from coalmine_monitors._rows import matrix

__all__ = ["MAX_SEGMENTS", "OTHER", "segment_indices", "segment_names", "segment_places"]

#: Segments of one feature; categories beyond these are one, `OTHER`.
MAX_SEGMENTS = 20
OTHER = "__other__"

Floats = NDArray[np.float64]


def segment_names(spec: SegmentColumnSpec, categories: Sequence[str] | None) -> tuple[str, ...]:
    """The segments that a feature cuts the rows into; none of a number without edges.

    >>> segment_names(SegmentColumnSpec(feature="soc", edges=(20, 80)), None)
    ('soc<20', '20<=soc<80', 'soc>=80')
    >>> segment_names(SegmentColumnSpec(feature="mode"), ["drive", "charge"])
    ('mode=drive', 'mode=charge')
    """
    name, edges = spec.feature, [f"{edge:g}" for edge in spec.edges]
    if edges:
        between = (f"{low}<={name}<{high}" for low, high in zip(edges, edges[1:], strict=False))
        return (f"{name}<{edges[0]}", *between, f"{name}>={edges[-1]}")
    found = list(categories or ())
    if len(found) > MAX_SEGMENTS:
        found = [*found[: MAX_SEGMENTS - 1], OTHER]
    return tuple(f"{name}={category}" for category in found)


def segment_indices(
    rows: pa.RecordBatch, specs: Iterable[SegmentColumnSpec]
) -> list[tuple[tuple[str, ...], NDArray[np.int64]]]:
    """For each feature its segments, and the segment [rows] of each row, -1 of none.

    A feature that the records do not have, or a number without edges, cuts nothing. A missing value
    and an unknown category belong to no segment.
    """
    found = []
    for spec in specs:
        if spec.feature not in rows.schema.names:
            continue
        categories = _categories(rows.schema.field(spec.feature))
        names = segment_names(spec, categories)
        if not names:
            continue
        column = Column(
            name=spec.feature,
            type="categorical" if categories else "numeric",
            categories=categories,
        )
        found.append((names, segment_places(spec, column, matrix(rows, (column,))[:, 0])))
    return found


def segment_places(spec: SegmentColumnSpec, column: Column, values: Floats) -> NDArray[np.int64]:
    """Which of `segment_names` [rows] the rows with these values are in, -1 of none."""
    known = np.isfinite(values)
    if spec.edges:
        place = np.searchsorted(np.array(spec.edges), values, side="right")
    else:
        names = segment_names(spec, column.categories)
        known &= (values >= 0) & (values < len(column.categories or ()))
        place = np.minimum(np.where(known, values, 0).astype(np.int64), len(names) - 1)
    return np.where(known, place, -1).astype(np.int64)


def _categories(field: pa.Field) -> tuple[str, ...] | None:
    text = (field.metadata or {}).get(b"categories")
    return None if text is None else tuple(json.loads(text))
