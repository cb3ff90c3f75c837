"""Labels on their way into the log: kept in a file while they come, checked, then stored."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import BinaryIO, cast

from coalmine.clock import Clock
from coalmine.records._label_check import check_labels
from coalmine.records._label_files import LabelFormat, read_labels
from coalmine.records._log import RecordLog
from coalmine.records._types import LabelCounts

__all__ = ["LabelIntake"]

#: A delivery beyond this goes from memory to a temporary file.
_IN_MEMORY = 4 * 1024**2
_WRITE = 1024**2


class LabelIntake:
    """Takes deliveries of any size in bounded memory; of a malformed one nothing is stored."""

    def __init__(self, log: RecordLog, *, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._latest = 0.0

    async def take(self, body: AsyncIterator[bytes], format: LabelFormat) -> LabelCounts:
        """Store the labels of a body; MalformedLabelsError, LogError."""
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
            file = cast(BinaryIO, spooled)
            parts: list[bytes] = []
            size = 0
            async for part in body:
                parts.append(part)
                size += len(part)
                if size >= _WRITE:
                    await asyncio.to_thread(file.write, b"".join(parts))
                    parts, size = [], 0
            file.write(b"".join(parts))
            return await asyncio.to_thread(self._store, file, format)

    def _store(self, file: BinaryIO, format: LabelFormat) -> LabelCounts:
        # A label without a time is the newest, also after the clock was set back.
        now = self._latest = max(self._latest, self._clock.time())
        classes = self._log.classes()
        check_labels(file, format, now=now, classes=classes)  # all, before any of it is stored
        counts = LabelCounts()
        file.seek(0)
        for piece in read_labels(file, format, now=now):
            counts = _sum(counts, self._log.put_labels(piece))
        return counts


def _sum(one: LabelCounts, other: LabelCounts) -> LabelCounts:
    names = [field.name for field in fields(LabelCounts)]
    return LabelCounts(**{name: getattr(one, name) + getattr(other, name) for name in names})
