"""Requests and responses of the same call, brought together within a window of time and space."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from coalmine.records._cloudevents import Event

__all__ = ["Call", "EventWindow", "WindowLimits"]

_Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How long, and how many, halves of calls wait for their other half."""

    seconds: float = 60.0
    """A model that takes longer to answer leaves two orphans."""

    events: int = 10_000
    bytes: int = 64 * 1024**2
    """Of payloads."""


class Call(NamedTuple):
    """What is known of a call; one of the two is None for an orphan."""

    request: Event | None
    response: Event | None
    spilled: bool = False
    """Whether it is an orphan because the window was full, and not because time was up."""

    @property
    def event(self) -> Event:
        """One of its events, for what both have in common."""
        event = self.request or self.response
        assert event is not None
        return event


class EventWindow:
    """Waiting halves, in the order of arrival. Not for more than one thread."""

    def __init__(self, limits: WindowLimits) -> None:
        self._limits = limits
        self._waiting: OrderedDict[_Key, tuple[float, Event]] = OrderedDict()
        self._joined: OrderedDict[_Key, float] = OrderedDict()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Halves that wait."""
        return len(self._waiting)

    def add(self, event: Event, *, now: float) -> Call | None | bool:
        """The call that an event completes; None if it waits, False if it was there already."""
        key = event.call
        if key in self._joined:
            return False
        if key not in self._waiting:
            self.put_back(event, now=now)
            return None
        other = self._waiting[key][1]
        if other.kind == event.kind:
            return False
        self._take(key)
        self._joined[key] = now
        while len(self._joined) > self._limits.events:
            self._joined.popitem(last=False)
        return Call(event, other) if event.kind == "request" else Call(other, event)

    def put_back(self, event: Event, *, now: float) -> None:
        """Let a half wait, also one whose call was complete and could not be stored."""
        self._joined.pop(event.call, None)
        self._waiting[event.call] = (now, event)
        self._bytes += len(event.payload)

    def due(self, *, now: float, all_of_them: bool = False) -> list[Call]:
        """Orphans: halves that have waited too long, and the oldest of those that are too many."""
        forget = now - self._limits.seconds
        while self._joined and next(iter(self._joined.values())) < forget:
            self._joined.popitem(last=False)
        found = []
        while self._waiting:
            key, (since, event) = next(iter(self._waiting.items()))
            spilled = len(self._waiting) > self._limits.events or self._bytes > self._limits.bytes
            if not (spilled or all_of_them or since < forget):
                break
            self._take(key)
            spilled = spilled and since >= forget
            found.append(
                Call(event, None, spilled)
                if event.kind == "request"
                else Call(None, event, spilled)
            )
        return found

    def _take(self, key: _Key) -> None:
        self._bytes -= len(self._waiting.pop(key)[1].payload)
