"""What is shown: JSON lines that a machine can read, and a view that fits a terminal."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
from rich.console import Console

from coalmine.demo._history import Event, ScoreSample
from coalmine.demo._ledger import Accuracy
from coalmine.demo._live import Glance, JsonLines, LiveView

from .stories import SECOND


def glance(elapsed: float) -> Glance:
    return Glance(
        scenario="chemistry",
        stage="react",
        elapsed=elapsed,
        requests=1234,
        failed=2,
        resent=5,
        per_second=44.9,
        weights={"stable": 80, "canary": 20},
        accuracy={"1": Accuracy(0.81, 0.79, 0.83, 800, 100), "2": Accuracy(0.97, 0.9, 1.0, 80, 10)},
        scores={
            "soc": ScoreSample(1.0, "1", "soc", 0.1, 0.2),
            "resistance": ScoreSample(1.0, "1", "resistance", 0.9, 0.2),
            "odd": ScoreSample(1.0, "1", "odd", 0.9, 0.0),
        },
        rollout=SECOND,
    )


EVENT = Event(5.0, "rollout", "version 2: [promoted]", {"e": np.float64(2.5), "spans": SECOND})


def test_json_lines_are_json_and_progress_is_not_a_flood() -> None:
    output = StringIO()
    lines = JsonLines(output)
    for tick in range(20):
        lines.glance(glance(tick * 0.5))
    lines.event(EVENT, elapsed=12.34)
    lines.end({"report": "x/report.html", "checks": {}}, ok=True)
    told = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["event"] for line in told] == ["progress", "progress", "rollout", "summary"]
    assert told[0]["drift"] == {"resistance": 4.5}
    assert told[0]["accuracy"] == {"1": 0.81, "2": 0.97}
    assert told[2]["at"] == 12.3
    assert told[2]["evidence"]["e"] == 2.5
    assert told[3]["ok"] is True


def shown(*, problem: str | None, ok: bool) -> str:
    output = StringIO()
    view = LiveView(Console(file=output, force_terminal=True, width=100, height=40))
    view.glance(glance(12.0))
    view.event(EVENT, elapsed=12.3)
    checks = {"the drift was detected": [ok, "CoalmineDrift: [soc] moved"]}
    view.end({"report": "out/report.html", "problem": problem, "checks": checks}, ok=ok)
    return output.getvalue()


def test_the_view_shows_split_accuracy_drift_and_rollout() -> None:
    text = shown(problem=None, ok=True)
    for expected in ("canary", "20 %", "81.0%", "4.50×", "non_inferior", "as expected", "report:"):
        assert expected in text
    # What comes from outside is text, never markup.
    assert "version 2: [promoted]" in text
    assert "CoalmineDrift: [soc] moved" in text


def test_the_view_says_what_was_wrong() -> None:
    assert "NOT as expected" in shown(problem=None, ok=False)
    assert "interrupted" in shown(problem="interrupted", ok=False)
