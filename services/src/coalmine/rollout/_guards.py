"""The guards: from evidence to two e-values each, for errors, slow requests and right answers.

- Errors are rare and independent: counted by request, on shadow and canary alike.
- Slow requests come in bursts, and a copy on the shadow arm competes with its original for the same
  cores: only the canary counts, and a block of time counts as one observation, so that a burst
  weighs as much as a moment. The seconds in which a new arm warms up are left out.
- Right answers come from labelled pairs of the shadow, and from labels on either side of the split.
  The instances of a request stand and fall together. Where the monitor does not say how many they
  are, those of a block do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from coalmine.arms import Arm
from coalmine.rollout._evidence import Evidence
from coalmine.rollout.eprocesses import (
    Floats,
    TwoArms,
    log_e_candidate_better,
    log_e_candidate_worse,
    log_e_mean_positive,
    log_e_more_events,
    log_e_rate_above,
    log_e_rate_below,
)

__all__ = ["WARM_UP", "GuardResult", "Levels", "Metric", "errors", "labels", "pairs", "slow"]

Metric = Literal["error_rate", "slow_rate", "accuracy"]
Source = Literal["requests", "pairs", "labels"]

#: Seconds after its first traffic in which an arm's latency says nothing of its model.
WARM_UP = 3.0
#: A regression is not called on a loss below this part of the margin, however significant.
_SMALLEST_LOSS = 0.25
#: A margin over the whole range would let nothing at all pass for non-inferiority.
_WIDEST_MARGIN = 0.9


@dataclass(frozen=True, slots=True)
class Levels:
    """What one guard is held to."""

    margin: float
    exposure: float
    """The candidate's share of the traffic if it passes: users lose only this share of its loss."""

    worse: float
    """Significance of a regression."""

    within: float
    """Significance of non-inferiority."""

    @property
    def stage_margin(self) -> float:
        """The candidate's own loss that costs users the margin at this exposure."""
        return min(self.margin / self.exposure, _WIDEST_MARGIN)


class GuardResult(BaseModel):
    """One guard's evidence. Rates are shares of bad outcomes; logarithms are natural."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric
    source: Source
    samples: int
    """Requests, pairs or labels of the candidate."""

    candidate: float | None
    stable: float | None
    loss: float | None
    """How much worse the candidate is, compared within blocks; negative: better. None: no data."""

    margin: float
    log_e_worse: float
    log_e_worse_needed: float
    log_e_within: float
    log_e_within_needed: float
    smallest_loss: float

    @property
    def regression(self) -> bool:
        """Whether the candidate is shown to be worse: significantly, and by enough to matter."""
        significant = self.log_e_worse >= self.log_e_worse_needed
        return significant and self.loss is not None and self.loss >= self.smallest_loss

    @property
    def non_inferior(self) -> bool:
        """Whether the candidate is shown to be worse by less than the margin."""
        return self.samples > 0 and self.log_e_within >= self.log_e_within_needed

    def describe(self) -> str:
        """One line for a person."""
        name = f"{self.metric} ({self.source})"
        if self.loss is None or self.candidate is None or self.stable is None:
            return f"{name}: no data"
        return (
            f"{name}: {self.candidate:.2%} against {self.stable:.2%} bad over {self.samples}, loss "
            f"{self.loss:+.2%}, margin {self.margin:.2%}; ln e-value {self.log_e_worse:.1f} of "
            f"{self.log_e_worse_needed:.1f} for worse, {self.log_e_within:.1f} of "
            f"{self.log_e_within_needed:.1f} for within the margin"
        )


def errors(evidence: Evidence, levels: Levels) -> GuardResult:
    """Failed requests."""
    arms = _arms(evidence, "errors", "requests")
    independent = np.ones_like(arms.candidate)
    return _result(
        ("error_rate", "requests"),
        levels,
        arms=arms,
        worse=log_e_more_events(arms),
        within=log_e_rate_below(arms, margin=levels.stage_margin, unit=independent),
    )


def slow(evidence: Evidence, levels: Levels) -> GuardResult:
    """Requests slower than stable's slowest; a regression is a loss beyond the margin."""
    arms = _arms(evidence, "slow", "requests", canary_only=True, min_age=WARM_UP)
    excess = arms.candidate_bad / arms.candidate - arms.stable_bad / arms.stable
    margin = levels.stage_margin
    return _result(
        ("slow_rate", "requests"),
        levels,
        arms=arms,
        worse=log_e_mean_positive(excess - levels.margin, lowest=-1.0 - levels.margin),
        within=log_e_mean_positive(margin - excess, lowest=margin - 1.0),
        loss=float(excess.mean()) if excess.size else None,
    )


def labels(evidence: Evidence, levels: Levels) -> GuardResult:
    """Wrong answers on labelled requests that were split between stable and canary."""
    arms = _arms(evidence, "wrong", "labelled", canary_only=True)
    size = evidence.request_size
    unit = np.full_like(arms.candidate, size) if size else np.maximum(arms.candidate, arms.stable)
    return _result(
        ("accuracy", "labels"),
        levels,
        arms=arms,
        worse=log_e_rate_above(arms, margin=0.0, unit=unit),
        within=log_e_rate_below(arms, margin=levels.stage_margin, unit=unit),
    )


def pairs(evidence: Evidence, levels: Levels) -> GuardResult:
    """Wrong answers on labelled requests that stable and the shadow both answered."""
    blocks = [each for each in evidence.pairs if each.won + each.lost + each.even]
    won = np.array([each.won for each in blocks], dtype=np.float64)
    lost = np.array([each.lost for each in blocks], dtype=np.float64)
    even = np.array([each.even for each in blocks], dtype=np.float64)
    size = evidence.request_size
    unit = np.full_like(won, size) if size else won + lost + even
    total = float((won + lost + even).sum())
    within = log_e_candidate_better(won, lost, even, margin=levels.stage_margin, unit=unit)
    return GuardResult(
        metric="accuracy",
        source="pairs",
        samples=int(total),
        # Only the difference is known: where both were wrong is not told from where both were
        # right.
        candidate=float(lost.sum()) / total if total else None,
        stable=float(won.sum()) / total if total else None,
        loss=float((lost - won).sum()) / total if total else None,
        margin=levels.stage_margin,
        log_e_worse=log_e_candidate_worse(won, lost, even, unit=unit),
        log_e_within=within,
        **_needed(levels),
    )


def _arms(
    evidence: Evidence,
    bad: Literal["errors", "slow", "wrong"],
    of: Literal["requests", "labelled"],
    *,
    canary_only: bool = False,
    min_age: float = 0.0,
) -> TwoArms:
    blocks = [
        block
        for block in evidence.blocks
        if (block.arm == Arm.CANARY or not canary_only)
        and block.age >= min_age
        and getattr(block.candidate, of)
        and getattr(block.stable, of)
        and getattr(block.candidate, bad) is not None
        and getattr(block.stable, bad) is not None
    ]

    def column(arm: Literal["candidate", "stable"], name: str) -> Floats:
        return np.array([getattr(getattr(block, arm), name) for block in blocks], dtype=np.float64)

    return TwoArms(
        candidate=column("candidate", of),
        candidate_bad=column("candidate", bad),
        stable=column("stable", of),
        stable_bad=column("stable", bad),
    )


def _result(
    name: tuple[Metric, Source],
    levels: Levels,
    *,
    arms: TwoArms,
    worse: float,
    within: float,
    loss: float | None = None,
) -> GuardResult:
    total, beside = float(arms.candidate.sum()), float(arms.stable.sum())
    return GuardResult(
        metric=name[0],
        source=name[1],
        samples=int(total),
        candidate=float(arms.candidate_bad.sum()) / total if total else None,
        stable=float(arms.stable_bad.sum()) / beside if beside else None,
        loss=_difference(arms) if loss is None else loss,
        margin=levels.stage_margin,
        log_e_worse=worse,
        log_e_within=within,
        **_needed(levels),
    )


def _needed(levels: Levels) -> dict[str, float]:
    return {
        "log_e_worse_needed": -math.log(levels.worse),
        "log_e_within_needed": -math.log(levels.within),
        "smallest_loss": levels.margin * _SMALLEST_LOSS,
    }


def _difference(arms: TwoArms) -> float | None:
    """The difference of the rates within blocks, by the weights of Mantel and Haenszel.

    A difference of the totals would mix up the arms with the times at which they had their traffic.
    """
    if not arms.candidate.size:
        return None
    both = arms.candidate + arms.stable
    weight = arms.candidate * arms.stable / both
    cross = arms.candidate_bad * arms.stable - arms.stable_bad * arms.candidate
    return float((cross / both).sum() / weight.sum())
