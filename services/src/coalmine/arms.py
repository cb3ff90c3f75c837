"""An arm: transformer and predictor of one model version, routed together at the edge."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Arm"]


class Arm(StrEnum):
    """The role a model version plays in the split of traffic."""

    STABLE = "stable"
    CANARY = "canary"
    SHADOW = "shadow"
    BASELINE = "baseline"
