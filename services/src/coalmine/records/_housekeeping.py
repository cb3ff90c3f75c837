"""Keeping a log small: archive what is new, then delete what is old."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from coalmine.records._archive import archive
from coalmine.records._errors import RecordsError
from coalmine.records._log import RecordLog

__all__ = ["Retention", "keep_house"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the log stays.

    Archiving comes first: nothing is deleted that is not archived, and nothing that one of
    `consumers` has yet to read.
    """

    max_age: float | None = None
    """Seconds of record time; None: for ever."""

    max_bytes: int | None = None
    """Of packed batches; None: no limit."""

    archive: Path | None = None
    """Directory of the Parquet archive; None: what is deleted is gone."""

    consumers: tuple[str, ...] = ()
    """Names under which readers `commit` their offsets; one that never did holds everything."""

    interval: float = 60.0
    """Seconds between two rounds."""

    def apply(self, log: RecordLog) -> int:
        """One round; returns the rows deleted. Blocks."""
        places = [log.committed(consumer) for consumer in self.consumers]
        if self.archive is not None:
            places.append(archive(log, self.archive))
        up_to = {
            partition: min((place.get(partition, 0) for place in places), default=0)
            for partition in range(log.partitions)
        }
        return log.expire(
            max_age=self.max_age, max_bytes=self.max_bytes, up_to=up_to if places else None
        )


async def keep_house(log: RecordLog, retention: Retention) -> None:
    """Apply the retention until cancelled; a round that fails is tried again at the next."""
    while True:
        try:
            await asyncio.to_thread(retention.apply, log)
        except (RecordsError, OSError):
            _log.exception("retention failed; trying again in %g s", retention.interval)
        await asyncio.sleep(retention.interval)
