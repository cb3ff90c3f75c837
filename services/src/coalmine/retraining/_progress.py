"""How far a run is that is under way, read from what its steps tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Search:
    """How far the search of one kind of model is."""

    family: str
    done: int
    """Trials, the one with the defaults included."""

    total: int
    best_loss: float


@dataclass(frozen=True, slots=True)
class Progress:
    """The steps that are under way, and the searches so far."""

    steps: Mapping[str, float]
    """Seconds since each began."""

    steps_done: int
    searches: tuple[Search, ...] = ()
    """Of the step that trains, while it is under way."""


def progress_of(events: Sequence[Mapping[str, Any]], *, now: float) -> Progress:
    """What an attempt's events amount to at `now`, seconds since the epoch."""
    began: dict[str, float] = {}
    done = 0
    searches: dict[str, Search] = {}
    for event in events:
        if event["event"] == "step" and event["state"] == "started":
            began[event["name"]] = event["time"]
        elif event["event"] == "step":
            began.pop(event["name"], None)
            done += 1
        elif event["event"] == "progress":
            family = event["family"]
            searches[family] = Search(family, event["trial"], event["of"], event["best_loss"])
    trains = any(event["event"] == "progress" and event["step"] in began for event in events)
    return Progress(
        # A clock that was set back makes no step younger than nothing.
        steps={name: round(max(0.0, now - time), 1) for name, time in began.items()},
        steps_done=done,
        searches=tuple(searches.values()) if trains else (),
    )
