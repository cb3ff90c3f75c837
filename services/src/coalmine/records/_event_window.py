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
    def is_whole(self) -> bool:
        """Whether both are there."""
        return self.request is not None and self.response is not None

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
        self._waiting: OrderedDict[_Key, tuple[float, Call]] = OrderedDict()
        self._joined: OrderedDict[_Key, float] = OrderedDict()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Calls of which a half waits."""
        return len(self._waiting)

    def add(self, event: Event, *, now: float) -> Call | None | bool:
        """The call that an event completes; None if it waits, False if it was there already."""
        key = event.call
        if key in self._joined:
            return False
        half = _half(event)
        if key not in self._waiting:
            self.put_back(half, now=now)
            return None
        call = _joined(half, self._waiting[key][1])
        if call is None:
            return False
        self._take(key)
        self._join(key, now=now)
        return call

    def put_back(self, call: Call, *, now: float) -> None:
        """Let a half wait, also one that could not be stored.

        Its other half may have come since: then the whole call waits, and is due at once.
        """
        key = call.event.call
        self._joined.pop(key, None)
        if key in self._waiting:
            call = _joined(call, self._waiting[key][1]) or call
            self._take(key)
        self._waiting[key] = (now, call)
        self._bytes += _size(call)
        if call.is_whole:
            self._waiting.move_to_end(key, last=False)

    def due(self, *, now: float, all_of_them: bool = False) -> list[Call]:
        """Orphans: halves that have waited too long, and the oldest of those that are too many."""
        forget = now - self._limits.seconds
        while self._joined and next(iter(self._joined.values())) < forget:
            self._joined.popitem(last=False)
        found = []
        while self._waiting:
            key, (since, call) = next(iter(self._waiting.items()))
            spilled = len(self._waiting) > self._limits.events or self._bytes > self._limits.bytes
            if not (spilled or all_of_them or since < forget or call.is_whole):
                break
            self._take(key)
            if call.is_whole:
                self._join(key, now=now)
            found.append(call._replace(spilled=spilled and since >= forget))
        return found

    def _join(self, key: _Key, *, now: float) -> None:
        self._joined[key] = now
        while len(self._joined) > self._limits.events:
            self._joined.popitem(last=False)

    def _take(self, key: _Key) -> None:
        self._bytes -= _size(self._waiting.pop(key)[1])


def _half(event: Event) -> Call:
    return Call(event, None) if event.kind == "request" else Call(None, event)


def _joined(one: Call, other: Call) -> Call | None:
    """The whole call that two halves make; None if they are the same half."""
    call = Call(one.request or other.request, one.response or other.response)
    return call if call.is_whole else None


def _size(call: Call) -> int:
    return sum(len(event.payload) for event in call[:2] if event is not None)
