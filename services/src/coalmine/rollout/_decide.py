"""The verdict: a pure function of evidence and policy.

Every guard carries two e-values. One speaks against "the candidate is no worse" and, when large,
shows a *regression*; the other speaks against "the candidate is worse by the margin" and, when
large, shows *non-inferiority*. Neither being large is *insufficient evidence*, which is what no
data at all gives.

The significance of a rollout is a budget, spent once however often one looks and over all its
stages:

- All of it may be spent on rolling back a candidate that is no worse. It is split over the metrics
  that the policy guards: where one is not guarded, the others get its part. Errors and accuracy
  get most, since they are hard to see; accuracy's part is split over its sources.
- A quarter as much may be spent on promoting one that is worse by a margin, which is the other
  error. All guards must pass, so each may be tested at the whole of it (an intersection-union test;
  Berger, Technometrics 24, 1982).

A regression must be large as well as significant: a quarter of the margin at least. Before the
canary has all the traffic, users lose only its share of what it loses; so a step to weight w needs
non-inferiority within margin / w, and a promotion within the margin itself.

Arms that did not get their shares of the requests (`_split_check`) hold a rollout where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from coalmine.rollout._evidence import Evidence
from coalmine.rollout._guard import GuardResult, Levels, Metric
from coalmine.rollout._guards import drift, errors, labels, pairs, slow, tail
from coalmine.rollout._split_check import SplitResult, check_split
from coalmine.spec import GuardsSpec

__all__ = ["Policy", "Verdict", "VerdictKind", "decide"]

VerdictKind = Literal["regression", "non_inferior", "insufficient_evidence"]

#: Of the significance, that of promoting what is worse by the margin.
_WITHIN_BUDGET = 0.25
#: Parts of the budget for regressions, by what it takes to see one (docs/rollouts.md): doubled
#: errors at 5 requests a second in half an hour, two points of accuracy in 2,500 labelled pairs, a
#: p99 up by 30 %.
_PARTS: dict[Metric, float] = {
    "error_rate": 0.41,
    "slow_rate": 0.02,
    "tail_rate": 0.25,
    "accuracy": 0.32,
    "prediction_drift": 0.15,
}
#: Of accuracy's part, where there is a shadow stage: pairs tell more than labels on a split.
_PAIRS = 0.85

_JUDGES: dict[Metric, Callable[[Evidence, Levels], GuardResult]] = {
    "error_rate": errors,
    "slow_rate": slow,
    "tail_rate": tail,
    "prediction_drift": drift,
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Policy(_Frozen):
    """What one stage of a rollout asks of the evidence."""

    guards: GuardsSpec = GuardsSpec()
    significance: float = 0.05
    needs: tuple[Metric, ...] | None = None
    """The metrics that must show non-inferiority; None: all that have a margin. Any that has one
    may show a regression."""

    paired: bool = True
    """Whether the rollout has a shadow stage, so that pairs are a source beside split labels."""

    exposure: float = 1.0
    """The candidate's share of the traffic if this stage is passed."""

    min_seconds: float = 0.0
    """How long the stage is watched at least, in record time."""

    @property
    def guarded(self) -> tuple[Metric, ...]:
        """The metrics that have a margin."""
        return tuple(each for each in _PARTS if getattr(self.guards, each) is not None)


class Verdict(_Frozen):
    """What the evidence says, and why."""

    kind: VerdictKind
    reasons: tuple[str, ...]
    guards: tuple[GuardResult, ...]
    split: SplitResult | None = None
    """Whether the arms got their shares of the requests; None: not measured."""


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    """Judge a candidate. The same evidence and policy always give the same verdict."""
    guards, split = _guards(evidence, policy), check_split(evidence)

    def verdict(kind: VerdictKind, reasons: tuple[str, ...]) -> Verdict:
        return Verdict(kind=kind, reasons=reasons, guards=guards, split=split)

    worse = tuple(guard.describe() for guard in guards if guard.regression)
    if worse:
        return verdict("regression", worse)
    missing = _missing(evidence, policy, guards)
    if split is not None and split.mismatch:
        missing = (split.describe(), *missing)
    if missing:
        return verdict("insufficient_evidence", missing)
    return verdict("non_inferior", tuple(guard.describe() for guard in _passed(policy, guards)))


def _missing(
    evidence: Evidence, policy: Policy, guards: tuple[GuardResult, ...]
) -> tuple[str, ...]:
    """What a promotion, or the next step, still lacks."""
    needs = policy.guarded if policy.needs is None else policy.needs
    unproved = set(needs) - {guard.metric for guard in _passed(policy, guards)}
    found = [guard.describe() for guard in guards if guard.metric in unproved]
    found += [
        f"{each}: has no margin in rollout.guards" for each in needs if each not in policy.guarded
    ]
    if not needs:
        found.append("nothing is guarded, and silence is no pass")
    if evidence.stage_seconds < policy.min_seconds:
        watched = f"watched for {evidence.stage_seconds:.0f} s of {policy.min_seconds:.0f} s"
        found.insert(0, watched)
    return tuple(found)


def _passed(policy: Policy, guards: tuple[GuardResult, ...]) -> list[GuardResult]:
    needs = policy.guarded if policy.needs is None else policy.needs
    return [guard for guard in guards if guard.metric in needs and guard.non_inferior]


def _guards(evidence: Evidence, policy: Policy) -> tuple[GuardResult, ...]:
    whole = sum(_PARTS[each] for each in policy.guarded)
    split = _PAIRS if policy.paired else 0.0

    def levels(metric: Metric, *, source: float = 1.0) -> Levels:
        return Levels(
            margin=getattr(policy.guards, metric),
            exposure=policy.exposure,
            worse=policy.significance * _PARTS[metric] / whole * source,
            within=policy.significance * _WITHIN_BUDGET * source,
        )

    found = [
        judge(evidence, levels(metric))
        for metric, judge in _JUDGES.items()
        if metric in policy.guarded
    ]
    if "accuracy" in policy.guarded:
        found.append(labels(evidence, levels("accuracy", source=1.0 - split)))
        if policy.paired:
            found.append(pairs(evidence, levels("accuracy", source=split)))
    return tuple(found)
