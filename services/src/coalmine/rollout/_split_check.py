"""Whether the arms got the shares of requests that were asked for.

If they did not, something between the weights and the counts is broken: routing, sticky keys, or
the measurements themselves. Nothing that the arms are compared by can then be trusted, so nothing
is promoted on it. It says nothing against the candidate, so it is no regression either.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from coalmine.arms import Arm
from coalmine.rollout._callers import requests_per_caller
from coalmine.rollout._evidence import Evidence, Split
from coalmine.rollout.eprocesses import log_e_share_off

__all__ = ["SplitResult", "check_split"]

#: A rollout in a thousand is held for nothing.
_SIGNIFICANCE = 0.001
#: Testers who choose an arm by header, and records shed under load, shift a share by a little.
_TOLERANCE = 0.05


class SplitResult(BaseModel):
    """The canary's and the baseline's share, beside what they should be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str
    """What was counted: `requests`, or `callers` where they stick to an arm."""

    arm: Arm
    """Of the arms, the one whose share is off most clearly."""

    share: float
    expected: float
    log_e: float
    log_e_needed: float

    @property
    def mismatch(self) -> bool:
        """Whether the shares are not those that were asked for."""
        return self.log_e >= self.log_e_needed

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"sample ratio: {self.arm.value} had {self.share:.2%} of the {self.unit} where the "
            f"weights say {self.expected:.2%}; ln e-value {self.log_e:.1f} of "
            f"{self.log_e_needed:.1f}; check the routing and what is measured"
        )


def check_split(evidence: Evidence) -> SplitResult | None:
    """Compare counts and weights; None: not measured, or callers stick and nobody counted them."""
    by_caller = bool(evidence.splits) and all(s.callers is not None for s in evidence.splits)
    known = evidence.callers
    if not evidence.splits or (evidence.sticky and not by_caller and not known):
        return None
    # The requests of a caller all went to one arm: together they are one draw.
    alike = 1.0
    if known and not by_caller:
        dealt = {arm for split in evidence.splits for arm in split.weights}
        alike = requests_per_caller(each for arm, each in known.items() if arm in dealt)
    arms = sorted({arm for split in evidence.splits for arm in split.weights} - {Arm.STABLE})
    found = [
        result
        for arm in arms
        if (result := _arm(evidence.splits, arm, alike=alike, by_caller=by_caller)) is not None
    ]
    return max(found, key=lambda each: each.log_e, default=None)


def _arm(
    splits: tuple[Split, ...], arm: Arm, *, alike: float, by_caller: bool
) -> SplitResult | None:
    counts: list[tuple[int, int]] = []
    shares: list[float] = []
    for split in splits:
        counted = (split.callers or {}) if by_caller else split.requests
        total = sum(counted.values())
        weight = split.weights.get(arm, 0) / sum(split.weights.values())
        if 0.0 < weight < 1.0 and total:
            counts.append((counted.get(arm, 0), total))
            shares.append(weight)
    if not counts:
        return None
    mine, totals = np.array(counts, dtype=np.float64).T
    share = np.array(shares)
    arms = sum(1 for each in splits[-1].weights if each is not Arm.STABLE) or 1
    return SplitResult(
        unit="callers" if by_caller else "requests",
        arm=arm,
        share=float(mine.sum() / totals.sum()),
        expected=float((share * totals).sum() / totals.sum()),
        log_e=log_e_share_off(
            mine, totals, share=share, tolerance=_TOLERANCE, unit=np.full_like(share, alike)
        ),
        log_e_needed=math.log(arms / _SIGNIFICANCE),
    )
