"""Which model version is stable now, learnt from the records alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from coalmine.arms import Arm

__all__ = ["StableVersion", "batch_arm", "batch_version", "newest_time", "oldest_time"]


@dataclass(frozen=True)
class StableVersion:
    """The version whose record from the stable arm has the newest time."""

    version: str | None = None
    newest: float = 0.0

    def after(self, batch: pa.RecordBatch) -> StableVersion:
        """The stable version once `batch` is known.

        Old records can come late, from the spool of a server that was replaced: they do not bring
        their version back.
        """
        if batch.num_rows == 0 or batch_arm(batch) != Arm.STABLE:
            return self
        time = newest_time(batch)
        version = batch_version(batch)
        if version == self.version:
            return replace(self, newest=max(time, self.newest))
        return StableVersion(version, time) if time > self.newest else self


def batch_version(batch: pa.RecordBatch) -> str:
    """The model version of a batch; all its rows have one."""
    return str(batch.column("model_version")[0].as_py())


def batch_arm(batch: pa.RecordBatch) -> str:
    """The arm of a batch; all its rows have one."""
    return str(batch.column("arm")[0].as_py())


def oldest_time(batch: pa.RecordBatch) -> float:
    """The oldest record time of a batch, seconds since the epoch."""
    oldest = pc.min(batch.column("time")).cast(pa.int64()).as_py()
    return float(oldest) / 1e6


def newest_time(batch: pa.RecordBatch) -> float:
    """The newest record time of a batch, seconds since the epoch."""
    newest = pc.max(batch.column("time")).cast(pa.int64()).as_py()
    return float(newest) / 1e6
