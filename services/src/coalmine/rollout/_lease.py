"""The lease: of all controllers on one database, one acts.

The owner beats while it acts, and asks before each effect whether it still is the owner. Another
takes over when the owner has been silent for `TTL`, or at once if its process is gone.

Wall clocks jump, so they are not believed alone: who waits for the lease watches the owner by its
own monotonic clock. As long as the owner beats nobody takes over, whatever the clocks say.

A controller that was stopped for longer than the lease lives may wake in the middle of an effect.
What keeps it from finishing that one is the token, which grows with every owner: the database and
the data plane refuse the writes of smaller ones (`coalmine.fencing`).
"""

from __future__ import annotations

import os
import socket
import uuid

import psutil

from coalmine.clock import Clock
from coalmine.rollout._errors import LeaseLost
from coalmine.rollout._store import Held, Store

__all__ = ["STILL", "TTL", "Lease"]

#: Seconds without a beat after which another controller takes over; longer than any one effect.
TTL = 30.0
#: Between two beats that no effect asked for; each is a write to the disk.
_BEAT = 2.0
#: A lease that is past its time by the wall clock is watched for this long: its owner, if it lives,
#: beats meanwhile, and then it was the clock that jumped.
STILL = 5.0
_SLEW = 2.0


class Lease:
    """One controller's claim to act. Every method blocks."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.owner = f"{_process()}:{uuid.uuid4().hex[:8]}"
        self._token: int | None = None
        self._beaten = 0.0
        self._watched: tuple[Held, float] | None = None

    @property
    def held(self) -> bool:
        """Whether this controller was the owner when it last asked."""
        return self._token is not None

    @property
    def token(self) -> int:
        """What to show at every write; `LeaseLost` if this controller does not act."""
        if self._token is None:
            raise LeaseLost(f"{self.owner} does not have the lease")
        return self._token

    def acquire(self) -> float | None:
        """Become or stay the owner. Returns how long nobody had acted before, in seconds.

        Zero: this controller was the owner already, or there was none before. None: another acts.
        """
        slept = self._clock.monotonic() - self._beaten
        if self._token is not None and slept < TTL:
            if slept >= _BEAT:
                self.assure()
            return 0.0
        # It was stopped for longer than its lease lives: nobody watched, though nobody took over.
        self._token = None
        seen = self._store.lease()
        silent = self._silence(seen)
        if silent is None:
            return None
        self._token = self._store.take_lease(self.owner, instead_of=seen)
        if self._token is None:
            return None
        self._watched = None
        self._beaten = self._clock.monotonic()
        return silent

    def assure(self) -> None:
        """Beat; `LeaseLost` if another controller has taken over."""
        try:
            self._store.beat(self.token)
        except LeaseLost:
            self._token = None
            raise
        self._beaten = self._clock.monotonic()

    def release(self) -> None:
        """Let the next controller act at once."""
        if self._token is not None:
            self._store.release_lease(self._token)
            self._token = None

    def _silence(self, seen: Held | None) -> float | None:
        """How long the owner has been silent, in seconds; None while it may be alive."""
        if seen is None:
            return 0.0
        now = self._clock.monotonic()
        if self._watched is None or self._watched[0] != seen:
            self._watched = (seen, now)
        still = now - self._watched[1]
        by_wall = self._clock.time() - seen.beat
        over = still >= TTL or (still >= STILL and by_wall >= TTL)
        if over or seen.owner == self.owner or _is_gone(seen.owner):
            return max(still, by_wall)
        return None


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
