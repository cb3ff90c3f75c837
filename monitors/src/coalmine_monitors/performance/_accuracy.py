"""Whether labelled rows say that accuracy is below what it should be.

Which rows are judged together, and when? Labels come late and in any order, so a block of record
time is never known to be complete. Rows are therefore grouped as their *labels* arrive: each
labelled row is used once, in the log's order of labels, and a group ends when the labels' own time
enters another block (and the group is not tiny, or has grown large). Rows that are alike, because
one request or one moment brought them, mostly share a group, and a group is one observation, its
share of right answers. The test needs no independence within it, nor any model of it: only that its
expectation, given the past, is at least the threshold while nothing is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coalmine_monitors.detectors import STAKES, EDetector, bets_on_less
from coalmine_monitors.performance._join import Scored

__all__ = ["AccuracyDetector"]

#: A group takes at least and at most so many rows.
SMALLEST_GROUP = 20
LARGEST_GROUP = 1000
#: Groups over which accuracy has to be back for an incident to end.
CALM = 30
#: Stakes are proportional to 1 / (1 - threshold), so the threshold is kept off 0 and 1.
_MARGIN_OF_MEAN = 1e-3


@dataclass(frozen=True)
class _Group:
    """The labelled rows that are gathered for the next observation."""

    block: int = 0
    rows: int = 0
    correct: float = 0
    oldest: float = math.inf
    newest: float = 0.0


class AccuracyDetector:
    """An e-detector of "accuracy < baseline - margin".

    Evidence is that of bets on each group's share of right answers (`bets_on_less`), at several
    stakes side by side. An incident opens when it reaches `run_length`, and ends when the last
    `CALM` groups lie above the threshold by half the margin: half-way back is not back.
    """

    def __init__(self, *, baseline: float, margin: float, run_length: int, block_s: float) -> None:
        self.baseline = baseline
        mean = baseline - margin
        self.threshold = min(max(mean, _MARGIN_OF_MEAN), 1 - _MARGIN_OF_MEAN)
        self._run_length = run_length
        self._block_s = block_s
        self._group = _Group()
        self._detected = False
        self._recent = _Group()
        self.newest = 0.0
        """Newest record time among the rows of the groups judged so far."""
        self._recovered = (self.threshold + baseline) / 2
        self._last: tuple[tuple[float, int], ...] = ()
        self._test = EDetector(streams=len(STAKES), run_length=run_length)

    @property
    def groups(self) -> int:
        """Groups judged so far."""
        return self._test.updates

    @property
    def score(self) -> float:
        """Accuracy of the rows since evidence began to gather; the baseline without such rows."""
        return self._recent.correct / self._recent.rows if self._recent.rows else self.baseline

    @property
    def labelled(self) -> int:
        """The number of rows that `score` is of."""
        return self._recent.rows

    @property
    def since(self) -> float:
        """Record time of the oldest row that `score` is of; infinite without such rows."""
        return self._recent.oldest

    @property
    def evidence(self) -> float:
        """Evidence of a loss, to compare with the declared run length."""
        return self._test.combined

    @property
    def log_evidence(self) -> tuple[float, float]:
        """Natural logarithms of the evidence and of what an incident takes."""
        return math.log(self.evidence), math.log(self._run_length)

    @property
    def detected(self) -> bool:
        """Whether accuracy is lost, hysteresis included."""
        return self._detected

    def update(self, row: Scored, *, good: float | None = None) -> None:
        """Take the next labelled row, in the order in which labels arrive.

        `good` is what the mean is of, in [0, 1]; None: whether the answer is right.
        """
        block = int(row.label_time // self._block_s)
        full = self._group.rows >= LARGEST_GROUP
        if full or (block != self._group.block and self._group.rows >= SMALLEST_GROUP):
            self._judge()
        self._group = _Group(
            block=block,
            rows=self._group.rows + 1,
            correct=self._group.correct + (row.correct if good is None else good),
            oldest=min(self._group.oldest, row.time),
            newest=max(self._group.newest, row.time),
        )

    def _judge(self) -> None:
        group, self._group = self._group, _Group()
        self.newest = max(self.newest, group.newest)
        share = group.correct / group.rows
        self._test.update(bets_on_less(share, self.threshold))
        self._last = (*self._last, (group.correct, group.rows))[-CALM:]
        if not self._detected and (self._test.evidence <= 1).all():
            self._recent = _Group()  # no bet has won anything: whatever was, is over
        else:
            self._recent = _Group(
                rows=self._recent.rows + group.rows,
                correct=self._recent.correct + group.correct,
                oldest=min(self._recent.oldest, group.oldest),
            )
        if not self._detected and self._test.alarm:
            self._detected = True
            self._last = ()
        elif self._detected and self._is_back():
            self._detected = False
            self._recent = _Group()
            self._test.evidence = np.ones(len(STAKES))

    def _is_back(self) -> bool:
        correct = sum(correct for correct, _ in self._last)
        rows = sum(rows for _, rows in self._last)
        return len(self._last) == CALM and correct >= self._recovered * rows

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        return {
            "group": _saved(self._group),
            "recent": _saved(self._recent),
            "detected": self._detected,
            "newest": self.newest,
            "last": self._last,
            "test": self._test.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""
        self._group = _restored(state["group"])
        self._recent = _restored(state["recent"])
        self._detected = bool(state["detected"])
        self.newest = float(state["newest"])
        self._last = tuple((correct, int(rows)) for correct, rows in state["last"])
        self._test.restore(state["test"])


def _saved(group: _Group) -> dict[str, Any]:
    # JSON knows no infinity.
    return {**asdict(group), "oldest": group.oldest if math.isfinite(group.oldest) else None}


def _restored(state: Mapping[str, Any]) -> _Group:
    oldest = state["oldest"]
    return _Group(**{**state, "oldest": math.inf if oldest is None else oldest})
