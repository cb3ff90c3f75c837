"""The record log: what every backend does, and the door to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as _Protocol
from urllib.parse import parse_qs

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records._errors import LogError, MalformedBatchError
from coalmine.records._types import BatchId, Label, LabelCounts, LogStats, NewBatch

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RecordLog", "archive_of", "open_log"]

_SQLITE = "sqlite:///"
_ALLOWED = "sqlite:///path or sqlite:///path?partitions=4"
_OPTIONS = "partitions=N, from 1 to 4096, and archive=DIRECTORY"


class RecordLog(_Protocol):
    """An append-only log of record batches in partitions, and one of labels beside it.

    A batch goes to the partition of its key, its model's name unless another is given, so that what
    has one key keeps its order. Offsets rise by one in each partition, from 1, and a place in the
    log is an offset per partition; labels are few and have a single order.

    Calls block and are safe from any thread and any process; put them in a thread where there is an
    event loop. A consumer that stores what it made of the batches in a database keeps its offsets
    in the same transaction, and each batch has its effect once; others `commit` them here under a
    name (see `Consumer`), and what was not committed comes again.

    Errors: `MalformedBatchError`, `LogUnavailableError`, `LogFullError`.
    """

    @property
    def partitions(self) -> int:
        """Number of partitions, fixed when the log was made."""
        ...

    def partition_of(self, key: str) -> int:
        """The partition, from 0, that batches of a key go to."""
        ...

    def append(
        self, batch: pa.RecordBatch, *, batch_id: BatchId, key: str | None = None, dropped: int = 0
    ) -> int:
        """Store a batch durably and return its offset in the partition of `key`.

        Rows of the emitter that are in the log already are not stored again; for a batch of only
        such rows the answer is the offset of the emitter's newest batch. `dropped` is the emitter's
        count of rows it could not keep so far.
        """
        ...

    def append_all(self, batches: Sequence[NewBatch]) -> list[int | MalformedBatchError | LogError]:
        """Store batches durably in one go: for each what `append` returns, or would raise."""
        ...

    def read(
        self, after: int, *, limit_rows: int, partition: int = 0, model_version: str | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Batches of a partition after an offset, in order; a batch is of one version and arm.

        Ends with the batch that reaches `limit_rows`. With `model_version`, only batches of it.
        """
        ...

    def end_offset(self, partition: int = 0) -> int:
        """The offset of the newest batch ever appended to a partition, 0 if there was none."""
        ...

    def offset_before(self, time: float, *, partition: int = 0) -> int:
        """Where to read after to see every record of a partition from `time` on, epoch seconds.

        All retained batches up to it hold only older records; some after it may too, since records
        are shipped late.
        """
        ...

    def commit(self, consumer: str, offsets: Mapping[int, int]) -> None:
        """Store durably how far a consumer has come, by partition; others stay as they were."""
        ...

    def committed(self, consumer: str) -> dict[int, int]:
        """How far a consumer has come, by partition; 0 where it has not begun."""
        ...

    def put_labels(self, labels: Sequence[Label]) -> LabelCounts:
        """Store labels durably; their offsets are given here. The newest `Label.time` wins."""
        ...

    def labels_after(self, after: int, limit: int) -> list[Label]:
        """Labels with an offset above `after`, corrections included, in the order of arrival."""
        ...

    def end_label(self) -> int:
        """The offset of the newest label, 0 if there is none."""
        ...

    def classes(self) -> tuple[str, ...]:
        """The classes of the log's models, by index; empty where they are not all the same."""
        ...

    def labelled(
        self,
        model_version: str | None = None,
        since: float | None = None,
        until: float | None = None,
        *,
        arms: Collection[str] | None = None,
        labels_up_to: int | None = None,
    ) -> pa.Table:
        """Records that have a label, with it as `true_label` (string), ordered by time.

        With `labels_up_to`, an offset of labels, as it was when that was the newest: the same rows
        as then, whatever has been labelled or corrected since.

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
        up_to: Mapping[int, int] | None = None,
    ) -> int:
        """Delete what is older than `max_age` seconds, then the oldest until `max_bytes` are left.

        With `up_to`, offsets by partition, batches after them stay in any case, and whole
        partitions it does not name. Returns the number of rows deleted.
        """
        ...

    def close(self) -> None:
        """Release files and connections; the log can be opened again."""
        ...


def open_log(url: str, *, clock: Clock = SYSTEM_CLOCK) -> RecordLog:
    """Open the log at `sqlite:///relative/path` or `sqlite:////absolute/path`, made if missing.

    `?partitions=N` says how many a new log gets, one by default; a log that has another number
    already raises ValueError. `?archive=DIRECTORY` says where what has left the log is, for those
    who ask `archive_of`; two options are joined by `&`.
    """
    path, _, query = url.removeprefix(_SQLITE).partition("?")
    if not url.startswith(_SQLITE) or not path:
        raise ValueError(f"{url!r} is not a record log; allowed: {_ALLOWED}")
    from coalmine.records._sqlite import SqliteRecordLog

    return SqliteRecordLog(Path(path), clock=clock, partitions=_partitions(url, query))


def _partitions(url: str, query: str) -> int | None:
    options = parse_qs(query, keep_blank_values=True)
    archive = options.pop("archive", ["given"])[0]
    text = options.pop("partitions", [""])[0] if "partitions" in options else None
    if text is not None and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 4096):
        raise ValueError(f"{url!r}: allowed after the ? is {_OPTIONS}")
    if options or not archive:
        raise ValueError(f"{url!r}: allowed after the ? is {_OPTIONS}")
    return None if text is None else int(text)


def archive_of(url: str) -> Path | None:
    """The directory of a log's archive, as its URL names it; None if it names none.

    >>> archive_of("sqlite:///records.db?archive=/srv/archive")
    PosixPath('/srv/archive')
    """
    found = parse_qs(url.partition("?")[2]).get("archive")
    return Path(found[0]) if found else None
