"""Following a log: where a reader is, in every partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from coalmine.records._log import RecordLog

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Consumer", "Entry", "monitor_consumer", "read_all"]


class Entry(NamedTuple):
    """A batch and its place in the log."""

    partition: int
    offset: int
    batch: pa.RecordBatch


def monitor_consumer(model: str, kind: str) -> str:
    """The name under which the monitor of a kind of incident notes how far it has read."""
    return f"{model}/{kind}"


def read_all(log: RecordLog, after: Mapping[int, int], *, limit_rows: int) -> list[Entry]:
    """The next batches of every partition, about `limit_rows` rows altogether.

    In order within a partition; between partitions there is none.
    """
    share = max(1, limit_rows // log.partitions)
    return [
        Entry(partition, offset, batch)
        for partition in range(log.partitions)
        for offset, batch in log.read(
            after.get(partition, 0), limit_rows=share, partition=partition
        )
    ]


class Consumer:
    """Reads a log under a name, each batch at least once: what was not committed comes again.

    For one reader per name at a time. A reader with a database of its own rather keeps its offsets
    there, in the transaction that stores what it made of the batches.

    >>> consumer = Consumer(log, "billing")            # doctest: +SKIP
    >>> while entries := consumer.poll():              # doctest: +SKIP
    ...     bill(entry.batch for entry in entries)
    ...     consumer.commit()
    """

    def __init__(self, log: RecordLog, name: str) -> None:
        self._log = log
        self._name = name
        self._positions = log.committed(name)

    @property
    def positions(self) -> Mapping[int, int]:
        """The offset of the last batch that `poll` returned, by partition."""
        return dict(self._positions)

    def poll(self, *, limit_rows: int = 20_000) -> list[Entry]:
        """The next batches, none when all have been read."""
        entries = read_all(self._log, self._positions, limit_rows=limit_rows)
        self._positions |= {entry.partition: entry.offset for entry in entries}
        return entries

    def commit(self) -> None:
        """Whoever opens this name again goes on after what `poll` has returned so far."""
        self._log.commit(self._name, self._positions)

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Go on after these offsets; partitions that are not named stay where they are."""
        self._positions |= offsets

    def seek_time(self, time: float) -> None:
        """Go back, or ahead, to the records of a time, in seconds since the epoch."""
        for partition in range(self._log.partitions):
            self._positions[partition] = self._log.offset_before(time, partition=partition)

    def lag(self) -> int:
        """How many batches have been appended and not been returned."""
        ends = (self._log.end_offset(partition) for partition in range(self._log.partitions))
        return sum(end - self._positions[number] for number, end in enumerate(ends))
