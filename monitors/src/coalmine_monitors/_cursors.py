"""Where a monitor is in the log: offsets of every partition, among the cursors of its state.

The log is told of it now and then, so that retention deletes nothing that has yet to be judged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from coalmine.clock import Clock
from coalmine.records import LogError, RecordLog, monitor_consumer

__all__ = ["Progress", "cursors_of", "known_lag", "lag", "positions"]

_log = logging.getLogger(__name__)

#: Each note is a write to the log, with its fsync, and retention works in hours.
_NOTE_SECONDS = 30.0


def positions(cursors: Mapping[str, int], name: str, log: RecordLog) -> dict[int, int]:
    """The offset consumed of each partition of the log; 0 where none is."""
    return {number: cursors.get(_key(name, number), 0) for number in range(log.partitions)}


def cursors_of(name: str, taken: Mapping[int, int]) -> dict[str, int]:
    """The inverse of `positions`."""
    return {_key(name, partition): offset for partition, offset in taken.items()}


def lag(log: RecordLog, taken: Mapping[int, int]) -> int:
    """Batches in the log that are not consumed."""
    return sum(log.end_offset(partition) - offset for partition, offset in taken.items())


def known_lag(log: RecordLog, taken: Mapping[int, int]) -> int | None:
    """`lag`; None while the log cannot be read."""
    try:
        return lag(log, taken)
    except LogError:
        return None


def _key(name: str, partition: int) -> str:
    # The first has the name alone: so it was called when there were no others.
    return f"{name}/{partition}" if partition else name


class Progress:
    """Notes in the log how far a monitor has come; at most twice a minute, and never ahead."""

    def __init__(self, log: RecordLog, *, model: str, kind: str, clock: Clock) -> None:
        self._log = log
        self._name = monitor_consumer(model, kind)
        self._clock = clock
        self._noted: Mapping[int, int] | None = None
        self._again = 0.0

    def note(self, taken: Mapping[int, int]) -> None:
        """`taken` is committed in the monitor's own state."""
        now = self._clock.monotonic()
        if taken == self._noted or (self._noted is not None and now < self._again):
            return
        try:
            self._log.commit(self._name, taken)
        except LogError as error:  # busy, say: what it still knows holds more back, never less
            _log.warning("%s: its place is not noted in the log yet: %s", self._name, error)
            return
        self._noted, self._again = dict(taken), now + _NOTE_SECONDS
