"""The verdict: a pure function of evidence and policy.

Every guard carries two e-values. One speaks against "the candidate is no worse" and, when large,
shows a *regression*; the other speaks against "the candidate is worse by the margin" and, when
large, shows *non-inferiority*. Neither being large is *insufficient evidence*, which is what no
data at all gives.

The significance of a rollout is a budget, spent once however often one looks and over all its
stages:

- 3/4 of it may be spent on rolling back a candidate that is no worse. It is split over the guards,
  errors getting most, since they are rare, and accuracy's part over its sources.
- 1/4 may be spent on promoting one that is worse by a margin. All guards must pass, so each may be
  tested at the whole of it (an intersection-union test; Berger, Technometrics 24, 1982).

A regression must be large as well as significant: a quarter of the margin at least. Before the
canary has all the traffic, users lose only its share of what it loses; so a step to weight w needs
non-inferiority within margin / w, and a promotion within the margin itself.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from coalmine.rollout._evidence import Evidence
from coalmine.rollout._guards import GuardResult, Levels, Metric, errors, labels, pairs, slow
from coalmine.spec import GuardsSpec

__all__ = ["Policy", "Verdict", "VerdictKind", "decide"]

VerdictKind = Literal["regression", "non_inferior", "insufficient_evidence"]

_WORSE_BUDGET, _WITHIN_BUDGET = 0.75, 0.25
#: Of the budget for regressions.
_ERRORS, _SLOW, _ACCURACY = 0.6, 0.12, 0.28
#: Of accuracy's part, where there is a shadow stage: pairs tell more than labels on a split.
_PAIRS = 0.75


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Policy(_Frozen):
    """What one stage of a rollout asks of the evidence."""

    guards: GuardsSpec = GuardsSpec()
    significance: float = 0.05
    needs: tuple[Metric, ...] = ("error_rate", "slow_rate", "accuracy")
    """The guards that must show non-inferiority; any of them may show a regression."""

    paired: bool = True
    """Whether the rollout has a shadow stage, so that pairs are a source beside split labels."""

    exposure: float = 1.0
    """The candidate's share of the traffic if this stage is passed."""

    min_seconds: float = 0.0
    """How long the stage is watched at least, in record time."""


class Verdict(_Frozen):
    """What the evidence says, and why."""

    kind: VerdictKind
    reasons: tuple[str, ...]
    guards: tuple[GuardResult, ...]


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    """Judge a candidate. The same evidence and policy always give the same verdict."""
    guards = _guards(evidence, policy)
    worse = tuple(guard.describe() for guard in guards if guard.regression)
    if worse:
        return Verdict(kind="regression", reasons=worse, guards=guards)
    passed = [guard for guard in guards if guard.metric in policy.needs and guard.non_inferior]
    open_metrics = set(policy.needs) - {guard.metric for guard in passed}
    missing = tuple(guard.describe() for guard in guards if guard.metric in open_metrics)
    if evidence.stage_seconds < policy.min_seconds:
        watched = f"watched for {evidence.stage_seconds:.0f} s of {policy.min_seconds:.0f} s"
        missing = (watched, *missing)
    if missing:
        return Verdict(kind="insufficient_evidence", reasons=missing, guards=guards)
    reasons = tuple(guard.describe() for guard in passed)
    return Verdict(kind="non_inferior", reasons=reasons, guards=guards)


def _guards(evidence: Evidence, policy: Policy) -> tuple[GuardResult, ...]:
    def levels(margin: float, part: float, *, source: float = 1.0) -> Levels:
        return Levels(
            margin=margin,
            exposure=policy.exposure,
            worse=policy.significance * _WORSE_BUDGET * part * source,
            within=policy.significance * _WITHIN_BUDGET * source,
        )

    guards = policy.guards
    split = _PAIRS if policy.paired else 0.0
    found = [
        errors(evidence, levels(guards.error_rate, _ERRORS)),
        slow(evidence, levels(guards.slow_rate, _SLOW)),
        labels(evidence, levels(guards.accuracy, _ACCURACY, source=1.0 - split)),
    ]
    if policy.paired:
        found.append(pairs(evidence, levels(guards.accuracy, _ACCURACY, source=split)))
    return tuple(found)
