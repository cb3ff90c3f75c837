"""Parts of one window, counted by several processes, that are judged as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.drift._segments import Segments
from coalmine_monitors.sketches import WindowSketch

__all__ = ["Partition"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Partition:
    """What a replica or a partition of the log has of a window. Partitions add up with `+`.

    `DriftDetector.partition` makes an empty one, `DriftDetector.judge` judges the sum: to the same
    verdict as one process that has seen all the rows, in whatever order.
    """

    sketches: Mapping[str, WindowSketch]
    """Of all rows, under the name "", and of each segment."""

    segments: Segments
    watched: int
    """How many of the columns drift is looked for in; those after them belong to segments."""

    def after(self, rows: Floats, at: Floats) -> Partition:
        """With further rows [n, columns] and their record times [n]."""
        sketches = dict(self.sketches)
        own = rows[:, : self.watched]
        sketches[""] = sketches[""].after(own, at)
        for name, mine in self.segments.parts(rows):
            sketches[name] = sketches[name].after(own[mine], at[mine])
        return Partition(sketches, self.segments, self.watched)

    def __add__(self, other: Partition) -> Partition:
        both = {name: sketch + other.sketches[name] for name, sketch in self.sketches.items()}
        return Partition(both, self.segments, self.watched)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, some kilobytes for tens of features."""
        return {name: sketch.state() for name, sketch in self.sketches.items()}

    def restored(self, saved: Mapping[str, Any]) -> Partition:
        """The partition, of the same detector's, that gave `saved`."""
        both = {name: sketch.restored(saved[name]) for name, sketch in self.sketches.items()}
        return Partition(both, self.segments, self.watched)
