"""The record log: what every backend does, and the door to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as _Protocol

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records._types import BatchId, Label, LabelCounts, LogStats

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RecordLog", "open_log"]

_SQLITE = "sqlite:///"


class RecordLog(_Protocol):
    """An append-only log of record batches, and one of labels beside it.

    Calls block and are safe from any thread and any process; put them in a thread where there is an
    event loop. A consumer keeps its own cursor, an offset, in its own database, in the transaction
    that stores what it made of the batches: then each batch has its effect once.

    Errors: `MalformedBatchError`, `LogUnavailableError`, `LogFullError`.
    """

    def append(self, batch: pa.RecordBatch, *, batch_id: BatchId, dropped: int = 0) -> int:
        """Store a batch durably and return its offset, from 1, rising.

        Rows of the emitter that are in the log already are not stored again; for a batch of only
        such rows the answer is the offset of the emitter's newest batch. `dropped` is the emitter's
        count of rows it could not keep so far.
        """
        ...

    def read(
        self, after: int, *, limit_rows: int, model_version: str | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Batches with an offset above `after`, in order; a batch is of one version and arm.

        Ends with the batch that reaches `limit_rows`. With `model_version`, only batches of it.
        """
        ...

    def end_offset(self) -> int:
        """The offset of the newest batch ever appended, 0 in an empty log."""
        ...

    def put_labels(self, labels: Sequence[Label]) -> LabelCounts:
        """Store labels durably; their offsets are given here. The newest `Label.time` wins."""
        ...

    def labels_after(self, after: int, limit: int) -> list[Label]:
        """Labels with an offset above `after`, corrections included, in the order of arrival."""
        ...

    def labelled(
        self,
        model_version: str | None = None,
        since: float | None = None,
        until: float | None = None,
        *,
        arms: Collection[str] | None = None,
    ) -> pa.Table:
        """Records that have a label, with it as `true_label` (string), ordered by time.

        Record time in [since, until), seconds since the epoch. A row answered by two arms is there
        for each: name the `arms` to have it once. Columns that a version lacks are null.
        """
        ...

    def stats(self) -> LogStats:
        """The size of the log."""
        ...

    def expire(
        self,
        *,
        max_age: float | None = None,
        max_bytes: int | None = None,
        up_to: int | None = None,
    ) -> int:
        """Delete what is older than `max_age` seconds, then the oldest until `max_bytes` are left.

        Batches with an offset above `up_to` stay in any case. Returns the number of rows deleted.
        """
        ...

    def close(self) -> None:
        """Release files and connections; the log can be opened again."""
        ...


def open_log(url: str, *, clock: Clock = SYSTEM_CLOCK) -> RecordLog:
    """Open the log at `sqlite:///relative/path` or `sqlite:////absolute/path`, made if missing."""
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from coalmine.records._sqlite import SqliteRecordLog

        return SqliteRecordLog(Path(url.removeprefix(_SQLITE)), clock=clock)
    raise ValueError(f"{url!r} is not a record log; allowed: sqlite:///path")
