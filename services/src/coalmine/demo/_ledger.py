"""What the client knows: the truth and the prediction of every window it has sent.

The truth never passes through the serving path, so the accuracy computed here is independent of the
monitors' and can be held against it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Accuracy", "Answered", "Bin", "DueLabel", "Phase", "TruthLedger", "accuracy_of"]

_Z95 = 1.959964


class Phase(StrEnum):
    """Where the story is: before the world changes, while the loop reacts, and afterwards."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of right answers, with a 95 % interval that takes uploads as the independent units.

    The windows of one upload come from one vehicle within minutes and tend to be right or wrong
    together; an interval that counts windows would be too narrow by about their number's root.
    """

    value: float
    low: float
    high: float
    windows: int
    requests: int


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered request. `truth` and `predicted` are int class indices, shape [windows]."""

    request_id: str
    time: float
    phase: Phase
    protocol: str
    arm: str
    version: str
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def right(self) -> int:
        """The number of windows that were classified rightly."""
        return int(np.count_nonzero(self.truth == self.predicted))


@dataclass(frozen=True, slots=True)
class DueLabel:
    """A label on its way from the workshop."""

    request_id: str
    row: int
    label: str


@dataclass(frozen=True, slots=True)
class Bin:
    """The accuracy of one model version within a short stretch of time."""

    time: float
    version: str
    accuracy: Accuracy


def accuracy_of(answers: Iterable[Answered]) -> Accuracy:
    """Accuracy over requests, as a ratio estimate with uploads as clusters.

    Cochran, Sampling Techniques (3rd ed.), section 6.4: the variance of a ratio of cluster totals.
    Without an answer the value is nan and the interval is [0, 1].
    """
    chosen = list(answers)
    right = np.array([a.right for a in chosen], dtype=np.float64)
    sizes = np.array([len(a.truth) for a in chosen], dtype=np.float64)
    windows = int(sizes.sum())
    if windows == 0:
        return Accuracy(float("nan"), 0.0, 1.0, 0, 0)
    value = float(right.sum() / windows)
    # One success and one failure more than seen keep the interval open where all answers agree.
    prior = (value * windows + 1) / (windows + 2)
    floor = prior * (1 - prior) / windows
    clusters = len(chosen)
    residual = float(np.square(right - value * sizes).sum())
    spread = residual * clusters / max(clusters - 1, 1) / windows**2
    half = _Z95 * max(floor, spread) ** 0.5
    return Accuracy(value, max(0.0, value - half), min(1.0, value + half), windows, clusters)


class TruthLedger:
    """Answers and the labels still owed for them.

    Used from one event loop; `owed` labels stay in the ledger until `delivered` says that the
    collector has acknowledged them, so a collector that dies loses none.
    """

    def __init__(self, *, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._answers: list[Answered] = []
        self._owed: list[tuple[float, int, DueLabel]] = []
        self._labels_due = 0
        self._labels_delivered = 0

    @property
    def answers(self) -> Sequence[Answered]:
        """Every answered request, in the order of the answers."""
        return self._answers

    @property
    def labels_due(self) -> int:
        """Labels of all answered windows, delivered or not."""
        return self._labels_due

    @property
    def labels_delivered(self) -> int:
        """Labels that the collector has acknowledged."""
        return self._labels_delivered

    def answered(self, answer: Answered, *, label_due: Sequence[float]) -> None:
        """Remember an answer; `label_due` gives the (monotonic) time each window's label comes."""
        self._answers.append(answer)
        for row, (due, truth) in enumerate(zip(label_due, answer.truth, strict=True)):
            label = DueLabel(answer.request_id, row, self._classes[int(truth)])
            heapq.heappush(self._owed, (float(due), self._labels_due, label))
            self._labels_due += 1

    def owed(self, *, now: float, limit: int) -> list[DueLabel]:
        """Take up to `limit` labels that are due by `now`, the earliest first."""
        taken: list[DueLabel] = []
        while self._owed and len(taken) < limit and self._owed[0][0] <= now:
            taken.append(heapq.heappop(self._owed)[2])
        return taken

    def delivered(self, count: int) -> None:
        """Say that `count` labels taken from `owed` have been acknowledged."""
        self._labels_delivered += count

    def accuracy(self, phase: Phase) -> Accuracy:
        """The accuracy of one phase of the story."""
        return accuracy_of(a for a in self._answers if a.phase is phase)

    def recent(self, *, since: float) -> dict[str, Accuracy]:
        """The accuracy of each version among the answers since a time, by version."""
        groups: dict[str, list[Answered]] = defaultdict(list)
        for answer in reversed(self._answers):
            if answer.time < since:
                break
            groups[answer.version].append(answer)
        return {version: accuracy_of(answers) for version, answers in sorted(groups.items())}

    def bins(self, *, seconds: float) -> list[Bin]:
        """Accuracy of each version in stretches of `seconds`, in order of time."""
        groups: dict[tuple[float, str], list[Answered]] = defaultdict(list)
        for answer in self._answers:
            groups[(answer.time // seconds * seconds, answer.version)].append(answer)
        return [
            Bin(time + seconds / 2, version, accuracy_of(answers))
            for (time, version), answers in sorted(groups.items())
        ]

    def by_version(self) -> dict[str, dict[str, Any]]:
        """What each version has answered: first and last time, requests, accuracy, arms."""
        groups: dict[str, list[Answered]] = defaultdict(list)
        for answer in self._answers:
            groups[answer.version].append(answer)
        return {
            version: {
                "first_answer": min(a.time for a in answers),
                "last_answer": max(a.time for a in answers),
                "requests": len(answers),
                "arms": sorted({a.arm for a in answers}),
                "accuracy": accuracy_of(answers).value,
            }
            for version, answers in groups.items()
        }
