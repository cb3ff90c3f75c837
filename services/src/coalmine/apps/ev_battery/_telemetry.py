"""Telemetry in memory: windows of raw tensors, who sent them when, and what the workshop found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from coalmine.apps.ev_battery._world import CLASSES
from coalmine.protocol import Array, Tensors


@dataclass(frozen=True, slots=True)
class Telemetry:
    """N windows, in time order; the windows of one upload stand together."""

    vehicle: Array
    """[N] int64."""

    upload: Array
    """[N] int64: which upload (request) a window came with."""

    day: Array
    """[N] float64: the window's end, in days; 0 is where the live stream begins."""

    raw: Tensors
    """The transformer's inputs, float32 [N, ...]; NaN is a missing reading."""

    label: Array
    """[N] int64: index into CLASSES, as the workshop finds it later."""

    label_delay_days: Array
    """[N] float64: from the upload to the workshop's finding; the same for a whole upload."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def label_names(self) -> list[str]:
        """The class name of every window."""
        return [CLASSES[index] for index in self.label]

    def select(self, rows: slice | Array) -> Telemetry:
        """The windows of a slice, mask or index array; a slice copies nothing."""
        return Telemetry(
            vehicle=self.vehicle[rows],
            upload=self.upload[rows],
            day=self.day[rows],
            raw={name: tensor[rows] for name, tensor in self.raw.items()},
            label=self.label[rows],
            label_delay_days=self.label_delay_days[rows],
        )

    def each_upload(self) -> Iterator[Telemetry]:
        """One Telemetry per upload, in order: the windows that travel in one request."""
        edges = np.flatnonzero(np.diff(self.upload)) + 1
        for start, stop in zip([0, *edges], [*edges, len(self)], strict=True):
            if stop > start:
                yield self.select(slice(int(start), int(stop)))

    @staticmethod
    def concat(parts: Sequence[Telemetry]) -> Telemetry:
        """The windows of all parts, one after the other."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Telemetry)
            if field.name != "raw"
        }
        names = parts[0].raw
        raw = {name: np.concatenate([part.raw[name] for part in parts]) for name in names}
        return Telemetry(raw=raw, **columns)

    def table(self) -> pa.Table:
        """As a table with one column per reading; see `from_table`."""
        from coalmine.apps.ev_battery._table import to_table

        return to_table(self)

    @staticmethod
    def from_table(table: pa.Table) -> Telemetry:
        """From the columns that `table` writes; `TelemetryError` names what is wrong."""
        from coalmine.apps.ev_battery._table import from_table

        return from_table(table)
