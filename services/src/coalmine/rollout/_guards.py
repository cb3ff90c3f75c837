"""The guards: from evidence to two e-values each, for every metric that a policy has a margin for.

- Errors are rare: counted by request, on shadow and canary alike. Where callers stick to an arm and
  are known, those of the canary that differ count for less (`_callers`).
- Slow requests come in bursts, and a copy on the shadow arm competes with its original for the same
  cores: only the canary counts, without the seconds in which a new arm warms up. Beyond stable's
  p95 a block of time counts as one observation, so that a burst weighs as much as a moment. Beyond
  its p99 requests are counted, and those of a block weigh less the more they come together.
- Right answers come from labelled pairs of the shadow, and from labels on either side of the split.
  The instances of a request stand and fall together. Where the source does not say how many they
  are, those of a block do. Labels come late, but both arms' in a block are of the same age.
- Drift of predictions is in the share of each class: canary and shadow, instances as for labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coalmine.arms import Arm
from coalmine.rollout._callers import caller_effect
from coalmine.rollout._evidence import Block, Evidence
from coalmine.rollout._guard import GuardResult, Levels, Metric, Source
from coalmine.rollout.eprocesses import (
    Floats,
    TwoArms,
    log_e_candidate_better,
    log_e_candidate_worse,
    log_e_mean_positive,
    log_e_more_events,
    log_e_rate_above,
    log_e_rate_below,
    log_e_shares_differ,
    log_e_shares_within,
    spread_of_events,
)

__all__ = ["WARM_UP", "drift", "errors", "labels", "pairs", "slow", "tail"]

#: Seconds after its first traffic in which an arm's latency says nothing of its model.
WARM_UP = 3.0

_Bad = Literal["errors", "slow", "tail", "wrong"]
_Of = Literal["requests", "labelled"]


def errors(evidence: Evidence, levels: Levels) -> GuardResult:
    """Failed requests."""
    blocks = _counted(evidence.blocks, "errors")
    arms = _arms(blocks, "errors")
    # The shadow has the callers that stable has: what is odd about them is in both.
    effect = caller_effect(evidence.callers)
    alike = np.array([effect if each.arm is Arm.CANARY else 1.0 for each in blocks])
    return _result(
        ("error_rate", "requests"),
        levels,
        arms=arms,
        worse=log_e_more_events(arms, unit=alike),
        within=log_e_rate_below(arms, margin=levels.stage_margin, unit=alike),
    )


def slow(evidence: Evidence, levels: Levels) -> GuardResult:
    """Requests slower than stable's p95; a regression is a loss beyond the margin."""
    arms = _arms(_counted(_warm(evidence), "slow"), "slow")
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


def tail(evidence: Evidence, levels: Levels) -> GuardResult:
    """Requests slower than stable's p99."""
    arms = _arms(_counted(_warm(evidence), "tail"), "tail")
    alike = spread_of_events(arms)
    return _result(
        ("tail_rate", "requests"),
        levels,
        arms=arms,
        worse=log_e_more_events(arms, unit=alike),
        within=log_e_rate_below(arms, margin=levels.stage_margin, unit=alike),
    )


def labels(evidence: Evidence, levels: Levels) -> GuardResult:
    """Wrong answers on labelled requests that were split between stable and canary."""
    blocks = [
        b
        for b in evidence.blocks
        if b.arm is Arm.CANARY and b.candidate.labelled and b.stable.labelled
    ]
    arms = _arms(blocks, "wrong", of="labelled")
    unit = _unit(evidence, np.maximum(arms.candidate, arms.stable))
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
    unit = _unit(evidence, won + lost + even)
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
        log_e_worse=log_e_candidate_worse(won, lost, even, unit=unit),
        log_e_within=within,
        **levels.needed,
    )


def drift(evidence: Evidence, levels: Levels) -> GuardResult:
    """The shares of the predicted classes; a regression is a share beyond the margin."""
    counts = [
        (b.candidate.predictions, b.stable.predictions)
        for b in evidence.blocks
        if b.candidate.predictions and b.stable.predictions
        if sum(b.candidate.predictions) and sum(b.stable.predictions)
    ]
    mine, others = (np.array([pair[i] for pair in counts], dtype=np.float64).T for i in (0, 1))
    unit = _unit(evidence, np.maximum(mine.sum(axis=0), others.sum(axis=0)))
    within = log_e_shares_within(mine, others, margin=levels.stage_margin, unit=unit)
    most: TwoArms | None = None
    if mine.size:
        each = [
            TwoArms(mine.sum(0), a, others.sum(0), b) for a, b in zip(mine, others, strict=True)
        ]
        most = max(each, key=lambda arms: abs(_difference(arms) or 0.0))
    none = np.zeros(0)
    result = _result(
        ("prediction_drift", "predictions"),
        levels,
        arms=most or TwoArms(none, none, none, none),
        worse=log_e_shares_differ(mine, others, margin=levels.margin, unit=unit),
        within=within,
    )
    loss = None if result.loss is None else abs(result.loss)
    return result.model_copy(update={"loss": loss})


def _counted(blocks: Sequence[Block], bad: _Bad) -> list[Block]:
    """The blocks in which it was measured on both sides."""
    return [
        b
        for b in blocks
        if b.candidate.requests
        and b.stable.requests
        and getattr(b.candidate, bad) is not None
        and getattr(b.stable, bad) is not None
    ]


def _warm(evidence: Evidence) -> list[Block]:
    return [b for b in evidence.blocks if b.arm is Arm.CANARY and b.age >= WARM_UP]


def _arms(blocks: Sequence[Block], bad: _Bad, *, of: _Of = "requests") -> TwoArms:
    mine, others = [b.candidate for b in blocks], [b.stable for b in blocks]

    def column(name: str, counts: Sequence[object]) -> Floats:
        return np.array([getattr(each, name) for each in counts], dtype=np.float64)

    return TwoArms(
        candidate=column(of, mine),
        candidate_bad=column(bad, mine),
        stable=column(of, others),
        stable_bad=column(bad, others),
    )


def _unit(evidence: Evidence, whole: Floats) -> Floats:
    """How many instances stand and fall together: those of a request, or all of the block."""
    size = evidence.request_size
    return np.full_like(whole, size) if size else whole


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
        log_e_worse=worse,
        log_e_within=within,
        **levels.needed,
    )


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
