"""Where a monitor is in the log: offsets of every partition, among the cursors of its state."""

from __future__ import annotations

from collections.abc import Mapping

from coalmine.records import RecordLog

__all__ = ["cursors_of", "lag", "positions"]


def positions(cursors: Mapping[str, int], name: str, log: RecordLog) -> dict[int, int]:
    """The offset consumed of each partition of the log; 0 where none is."""
    return {number: cursors.get(_key(name, number), 0) for number in range(log.partitions)}


def cursors_of(name: str, taken: Mapping[int, int]) -> dict[str, int]:
    """The inverse of `positions`."""
    return {_key(name, partition): offset for partition, offset in taken.items()}


def lag(log: RecordLog, taken: Mapping[int, int]) -> int:
    """Batches in the log that are not consumed."""
    return sum(log.end_offset(partition) - offset for partition, offset in taken.items())


def _key(name: str, partition: int) -> str:
    # The first has the name alone: so it was called when there were no others.
    return f"{name}/{partition}" if partition else name
