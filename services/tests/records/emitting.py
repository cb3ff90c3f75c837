"""What the tests of the emitter and of its spool share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coalmine.modeldir import ModelCard
from coalmine.records import InferenceRecord, RecordEmitter, RecordLog

MakeRecord = Callable[..., InferenceRecord]
ReadIds = Callable[[RecordLog], list[tuple[str, int]]]

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


def emitter_of(spool: Path, url: str, card: ModelCard, **more: Any) -> RecordEmitter:
    options: dict[str, Any] = {"model_version": "3", "arm": "stable", "pod": "p", **more}
    return RecordEmitter(spool, url, card=card, **options)


@asynccontextmanager
async def started(emitter: RecordEmitter, *, close: float = 10.0) -> AsyncIterator[RecordEmitter]:
    await emitter.start()
    try:
        yield emitter
    finally:
        await emitter.close(close)


async def until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def keys(names: list[str], rows: int) -> list[tuple[str, int]]:
    return [(name, row) for name in names for row in range(rows)]
