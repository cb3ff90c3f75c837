"""What a person sees while it runs: a live view on a terminal, or JSON lines."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TextIO

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coalmine.demo._facts import RolloutFact
from coalmine.demo._history import Event, ScoreSample
from coalmine.demo._ledger import Accuracy

__all__ = ["Glance", "JsonLines", "LiveView", "View"]

_EVENTS = 12
_SCORES = 5
_JSON_PERIOD_S = 5.0
_BAR = 24
_COLOURS = {
    "monitor": "red",
    "rollout": "green",
    "gateway": "blue",
    "pipeline": "cyan",
    "retrainer": "magenta",
    "demo": "bold",
    "stack": "yellow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """Everything that is shown at one moment."""

    scenario: str
    stage: str
    elapsed: float
    requests: int = 0
    failed: int = 0
    resent: int = 0
    per_second: float = 0.0
    weights: Mapping[str, int] = field(default_factory=dict)
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    """Of the last seconds, by the version that answered."""

    scores: Mapping[str, ScoreSample] = field(default_factory=dict)
    rollout: RolloutFact | None = None


class View(Protocol):
    """Something that shows the run."""

    def event(self, event: Event, *, elapsed: float) -> None:
        """Something has happened."""
        ...

    def glance(self, glance: Glance) -> None:
        """How it stands; called about once a second."""
        ...

    def end(self, summary: Mapping[str, Any], *, ok: bool) -> None:
        """The last word; nothing is shown after it."""
        ...


class JsonLines:
    """One JSON object per line: every event, a `progress` every few seconds, and a `summary`."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._next = 0.0

    def event(self, event: Event, *, elapsed: float) -> None:
        """Write the event with its evidence."""
        evidence = {"evidence": dict(event.evidence)} if event.evidence else {}
        self._write({"at": round(elapsed, 1), "event": event.kind, "text": event.text, **evidence})

    def glance(self, glance: Glance) -> None:
        """Write a progress line if the last one is a few seconds old."""
        if glance.elapsed < self._next:
            return
        self._next = glance.elapsed + _JSON_PERIOD_S
        top = _strongest(glance.scores)
        self._write(
            {
                "at": round(glance.elapsed, 1),
                "event": "progress",
                "stage": glance.stage,
                "requests": glance.requests,
                "failed": glance.failed,
                "resent": glance.resent,
                "per_second": round(glance.per_second, 1),
                "weights": dict(glance.weights),
                "accuracy": {v: round(a.value, 4) for v, a in glance.accuracy.items()},
                "drift": {s.feature: round(s.score / s.threshold, 2) for s in top[:1]},
                "rollout": glance.rollout.state if glance.rollout else None,
            }
        )

    def end(self, summary: Mapping[str, Any], *, ok: bool) -> None:
        """Write the summary."""
        self._write({"event": "summary", "ok": ok, **summary})

    def _write(self, content: Mapping[str, Any]) -> None:
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        line = orjson.dumps(dict(content), option=options, default=_plain)
        self._output.write(line.decode() + "\n")
        self._output.flush()


class LiveView:
    """A view that redraws itself in place."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._events: deque[tuple[float, Event]] = deque(maxlen=_EVENTS)
        self._glance: Glance | None = None
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def event(self, event: Event, *, elapsed: float) -> None:
        """Add the event to the timeline."""
        self._events.append((elapsed, event))
        self._draw()

    def glance(self, glance: Glance) -> None:
        """Redraw."""
        self._glance = glance
        self._draw()

    def end(self, summary: Mapping[str, Any], *, ok: bool) -> None:
        """Leave the timeline and the checks on the terminal."""
        self._live.stop()
        self._console.print(self._timeline())
        for name, found in summary.get("checks", {}).items():
            mark, text = found
            self._console.print(f"[{'green' if mark else 'red'}]{'✓' if mark else '✗'}[/]", end=" ")
            self._console.print(Text(f"{name}: {text}"))
        colour, verdict = ("green", "as expected") if ok else ("red", "NOT as expected")
        if summary.get("problem"):
            colour, verdict = "yellow", str(summary["problem"])
        self._console.print(Text(verdict, style=f"bold {colour}"))
        if summary.get("report"):
            self._console.print(Text(f"report: {summary['report']}"))

    def _draw(self) -> None:
        parts: list[Any] = []
        if self._glance is not None:
            parts.append(_state(self._glance))
        self._live.update(Group(*parts, self._timeline()))

    def _timeline(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1))
        for elapsed, event in self._events:
            kind = Text(event.kind, style=_COLOURS.get(event.kind, ""))
            table.add_row(Text(f"{elapsed:6.1f} s", style="dim"), kind, Text(event.text))
        return table


def _state(glance: Glance) -> Panel:
    table = Table(box=None, show_header=False, padding=(0, 1))
    failed = Text(f"{glance.failed} failed", style="red" if glance.failed else "dim")
    sent = Text(f"{glance.requests} sent, {glance.per_second:.0f}/s, {glance.resent} resent, ")
    table.add_row("requests", sent.append_text(failed))
    shares = Text()
    for arm, weight in glance.weights.items():
        shares.append(f"{arm} {weight:3d} % ").append("█" * round(weight * _BAR / 100) + "  ")
    table.add_row("traffic split", shares)
    accuracy = "   ".join(
        f"version {version}: {found.value:.1%} ({found.low:.1%} – {found.high:.1%})"
        for version, found in glance.accuracy.items()
    )
    table.add_row("accuracy", accuracy or "–")
    for place, sample in enumerate(_strongest(glance.scores)[:_SCORES]):
        share = sample.score / sample.threshold
        bar = "█" * min(round(share * _BAR / 2), 2 * _BAR)
        row = Text(f"{sample.feature:26.26} {share:5.2f}× ")
        row.append(bar, style="red" if share > 1 else "green")
        table.add_row("drift / threshold" if place == 0 else "", row)
    if glance.rollout is not None:
        verdict = f", {glance.rollout.verdict}" if glance.rollout.verdict else ""
        state = glance.rollout.state.replace("_", " ")
        table.add_row("rollout", f"version {glance.rollout.version}: {state}{verdict}")
    title = f"{glance.scenario} · {glance.stage} · {glance.elapsed:.0f} s"
    return Panel(table, title=title, title_align="left")


def _strongest(scores: Mapping[str, ScoreSample]) -> list[ScoreSample]:
    known = [sample for sample in scores.values() if sample.threshold > 0]
    return sorted(known, key=lambda sample: -sample.score / sample.threshold)


def _plain(value: Any) -> Any:
    """What orjson does not write itself."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
