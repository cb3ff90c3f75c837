"""Delivering the records that retired arms have left in their spools.

A server that is stopped ships its records itself, but not if it was killed, or if the collector was
away just then. The next server of the arm would ship them; a retired arm may never have one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Container
from pathlib import Path

from coalmine.arms import Arm
from coalmine.stack._state import StateDirectory

__all__ = ["Leftovers"]

_log = logging.getLogger(__name__)
_LOOK = 2.0
#: Of one attempt: a stack that is stopped, or an arm that is started again, waits no longer.
_ATTEMPT = 1.0


class Leftovers:
    """Looks after the spools of arms that do not run."""

    def __init__(self, state: StateDirectory, *, collector: str) -> None:
        self._state = state
        self._collector = collector
        self._locks: defaultdict[Arm, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lock(self, arm: Arm) -> asyncio.Lock:
        """Hold it to start an arm: a spool belongs to one process at a time."""
        return self._locks[arm]

    async def deliver(self, running: Container[Arm]) -> None:
        """Deliver what lies in the spools of arms that are not in `running`; never returns."""
        while True:
            for arm in Arm:
                async with self.lock(arm):
                    spool = self._state.spool(arm.value)
                    if arm not in running and spool.is_dir():
                        await asyncio.to_thread(_drain, spool, self._collector)
            await asyncio.sleep(_LOOK)


def _drain(spool: Path, collector: str) -> None:
    from coalmine.records import RecordsError, drain_spool, spool_stats  # Arrow, half a second

    try:
        if not spool_stats(spool).pending_rows:
            return
        left = drain_spool(spool, collector, timeout=_ATTEMPT).pending_rows
    except (RecordsError, OSError) as error:
        _log.warning("%s: what a retired arm left is not delivered yet: %s", spool, error)
        return
    if not left:
        _log.info("%s: what a retired arm left is delivered", spool)
