"""What was seen while the run went on: samples over time, and the story's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event", "History", "ScoreSample", "WeightSample", "disagreements"]

#: A changed decision may take this long from the controller's book to the gateway's routes.
SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at a time in seconds since the epoch, with its evidence."""

    time: float
    kind: str
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightSample:
    """The weights in percent by arm, as the controller says and as the gateway applies them."""

    time: float
    decision: str
    controller: Mapping[str, int]
    gateway_decision: str | None
    gateway: Mapping[str, int]

    @property
    def agree(self) -> bool:
        """Whether gateway and controller speak of the same decision and the same weights."""
        return self.decision == self.gateway_decision and _shares(self.controller) == _shares(
            self.gateway
        )


@dataclass(frozen=True, slots=True)
class ScoreSample:
    """One feature's drift score and the threshold it was held against."""

    time: float
    version: str
    feature: str
    score: float
    threshold: float


@dataclass(slots=True)
class History:
    """Grows during the run; each list is in order of time."""

    events: list[Event] = field(default_factory=list)
    weights: list[WeightSample] = field(default_factory=list)
    scores: list[ScoreSample] = field(default_factory=list)


def disagreements(samples: Sequence[WeightSample], *, settle_s: float = SETTLE_S) -> int:
    """Samples that disagree longer than a change may take.

    The controller writes a decision down before the gateway is told, so a sample may fall between;
    it counts only if the same decision has been disagreed about for `settle_s`.
    """
    count = 0
    since: float | None = None
    decision: str | None = None
    for sample in samples:
        if sample.agree:
            since = None
            continue
        if since is None or sample.decision != decision:
            since, decision = sample.time, sample.decision
        elif sample.time - since >= settle_s:
            count += 1
    return count


def _shares(weights: Mapping[str, int]) -> dict[str, int]:
    return {arm: weight for arm, weight in weights.items() if weight}
