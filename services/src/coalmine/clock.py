"""The clock, so that code that decides by time can be tested without waiting.

Wall time can jump (NTP, a suspended laptop): durations are measured with `monotonic`, and only what
another process reads is stamped with `time`.
"""

from __future__ import annotations

import time as _time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "ManualClock"]


class Clock(Protocol):
    """Two readings of time, in seconds."""

    def time(self) -> float:
        """Seconds since the epoch, UTC; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...


class _SystemClock:
    # The functions themselves: a server reads them half a dozen times per request.
    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)


SYSTEM_CLOCK: Clock = _SystemClock()


class ManualClock:
    """A clock that moves only when told to.

    >>> clock = ManualClock(start=100.0)
    >>> clock.advance(2.5)
    >>> clock.time(), clock.monotonic()
    (102.5, 2.5)
    """

    def __init__(self, *, start: float = 0.0) -> None:
        self._start = start
        self._elapsed = 0.0

    def time(self) -> float:
        """Seconds since the epoch, as set."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move both readings forward."""
        if seconds < 0:
            raise ValueError(f"a clock cannot be advanced by {seconds} s; use `jump` for wall time")
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Move wall time alone, backwards too, as a clock correction does."""
        self._start += seconds
