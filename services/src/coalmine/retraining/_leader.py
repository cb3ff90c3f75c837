"""One retrainer works at a time: several may take triggers into one database, one advances runs.

The lock is the kernel's, on a file beside the database: it is free the moment its holder is dead,
however it died, and never before.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_LOOK_SECONDS = 1.0


@asynccontextmanager
async def leading(path: Path) -> AsyncIterator[None]:
    """Hold the lock at `path` for the body; waits until no other process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _taken(descriptor):
            await asyncio.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
