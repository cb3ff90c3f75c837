"""The lease: of all controllers on one database, one acts.

The owner beats while it acts, and asks before each effect whether it still is the owner. Another
takes over when the owner has not beaten for `TTL`, or at once if its process is gone. A controller
that was stopped for longer, in the middle of an effect, can still finish that one; the new owner
sees a foreign decision in the data plane on its next tick and applies its own again.
"""

from __future__ import annotations

import os
import socket
import uuid

import psutil

from coalmine.clock import Clock
from coalmine.rollout._errors import LeaseLost
from coalmine.rollout._store import Store

__all__ = ["TTL", "Lease"]

#: Seconds without a beat after which another controller takes over; longer than any one effect.
TTL = 30.0
#: Between two beats that no effect asked for; each is a write to the disk.
_BEAT = 2.0
_SLEW = 2.0


class Lease:
    """One controller's claim to act. Every method blocks."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.owner = f"{_process()}:{uuid.uuid4().hex[:8]}"
        self._beaten: float | None = None

    @property
    def held(self) -> bool:
        """Whether this controller was the owner when it last asked."""
        return self._beaten is not None

    def acquire(self) -> float | None:
        """Become or stay the owner. Returns how long nobody had acted before, in seconds.

        Zero: this controller was the owner already, or there was none before. None: another acts.
        """
        if self._beaten is not None:
            if self._clock.monotonic() - self._beaten >= _BEAT:
                self.assure()
            return 0.0
        seen = self._store.lease()
        silent = 0.0 if seen is None else self._clock.time() - seen[1]
        # A beat from the future is from before a correction of the clock: it says nothing.
        alive = seen is not None and 0 <= silent < TTL and not _is_gone(seen[0])
        if alive or not self._store.take_lease(self.owner, instead_of=seen):
            return None
        self._beaten = self._clock.monotonic()
        return max(0.0, silent)

    def assure(self) -> None:
        """Beat; `LeaseLost` if another controller has taken over."""
        try:
            self._store.beat(self.owner)
        except LeaseLost:
            self._beaten = None
            raise
        self._beaten = self._clock.monotonic()

    def release(self) -> None:
        """Let the next controller act at once."""
        if self._beaten is not None:
            self._beaten = None
            self._store.release_lease(self.owner)


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time()}"


def _is_gone(owner: str) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    host, pid, created, _ = owner.rsplit(":", 3)
    if host != socket.gethostname():
        return False
    try:
        # The kernel's start of a process is reckoned from the wall clock, which is slewed.
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > _SLEW
    except psutil.NoSuchProcess:
        return True
