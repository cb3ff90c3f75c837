"""Segments: parts of the rows that have references and windows of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine.modeldir import Column
from coalmine.spec import SegmentColumnSpec
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._segments import segment_names, segment_places
from coalmine_monitors.drift._reference import Reference

__all__ = ["Segmentation", "Segments", "fit_segments"]

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Segmentation:
    """How one column puts rows into segments."""

    spec: SegmentColumnSpec
    column: Column

    @property
    def names(self) -> tuple[str, ...]:
        """Of its segments."""
        return segment_names(self.spec, self.column.categories)

    def place(self, values: Floats) -> NDArray[np.int64]:
        """Which of `names` [n] the rows with these values are in, -1 of none."""
        return segment_places(self.spec, self.column, values)


@dataclass(frozen=True)
class Segments:
    """All segments of a reference, by their names, such as `mode=drive`."""

    columns: tuple[Column, ...] = ()
    """What a detector takes beside the columns it watches."""

    places: tuple[int, ...] = ()
    """Where in a row each segmentation's column is."""

    segmentations: tuple[Segmentation, ...] = ()
    references: Mapping[str, Reference] | None = None
    alone: bool = False
    """Whether only the segments are judged, and not all rows together."""

    def parts(self, rows: Floats) -> list[tuple[str, NDArray[np.intp]]]:
        """The rows [indices] of each segment that has a reference."""
        found = []
        for place, segmentation in zip(self.places, self.segmentations, strict=True):
            at = segmentation.place(rows[:, place])
            for index, name in enumerate(segmentation.names):
                if name in (self.references or {}):
                    mine = np.flatnonzero(at == index)
                    if mine.size:
                        found.append((name, mine))
        return found

    def siblings(self, name: str) -> tuple[str, ...]:
        """The segments, with a reference, of the same column."""
        for segmentation in self.segmentations:
            if name in segmentation.names:
                return tuple(
                    other for other in segmentation.names if other in (self.references or {})
                )
        return ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` is the inverse."""
        return {
            "columns": [column.model_dump(mode="json") for column in self.columns],
            "places": list(self.places),
            "segmentations": [
                {
                    "spec": item.spec.model_dump(mode="json"),
                    "column": item.column.model_dump(mode="json"),
                }
                for item in self.segmentations
            ],
            "references": {
                name: reference.to_dict() for name, reference in (self.references or {}).items()
            },
            "alone": self.alone,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Segments:
        """The segments that gave `saved`."""
        return cls(
            columns=tuple(Column.model_validate(item) for item in saved["columns"]),
            places=tuple(saved["places"]),
            segmentations=tuple(
                Segmentation(
                    SegmentColumnSpec.model_validate(item["spec"]),
                    Column.model_validate(item["column"]),
                )
                for item in saved["segmentations"]
            ),
            references={
                name: Reference.from_dict(item) for name, item in saved["references"].items()
            },
            alone=bool(saved["alone"]),
        )


def fit_segments(
    rows: Floats,
    columns: tuple[Column, ...],
    *,
    watched: int,
    by: tuple[SegmentColumnSpec, ...],
    calibrate: Callable[[NDArray[np.intp]], Reference],
    alone: bool,
) -> Segments:
    """The segments of a reference's rows [n, columns].

    The first `watched` columns are those that drift is looked for in. `calibrate` makes the
    reference of some rows; a segment with too few of them has none, and is watched as a part of
    all rows only.
    """
    names = [column.name for column in columns]
    places = tuple(names.index(spec.feature) for spec in by)
    segmentations = tuple(
        Segmentation(spec, columns[place]) for spec, place in zip(by, places, strict=True)
    )
    references = {}
    for segmentation, place in zip(segmentations, places, strict=True):
        at = segmentation.place(rows[:, place])
        if not segmentation.names:
            _log.warning("monitors.segments: %s is a number: give `edges`", names[place])
        for index, name in enumerate(segmentation.names):
            try:
                references[name] = calibrate(np.flatnonzero(at == index))
            except UnusableReferenceError as error:
                _log.warning("segment %s is not watched apart: %s", name, error)
    return Segments(columns[watched:], places, segmentations, references, alone=alone)
