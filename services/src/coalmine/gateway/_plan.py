"""What the gateway is told: weights of the arms, the mirror, and the salt of the sticky hash.

GatewayError             any failure of this package
  RouteNotApplied        the data plane did not take a plan; the plan before it stays
  GatewayUnavailable     the data plane does not answer
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from coalmine.arms import Arm

__all__ = ["GatewayError", "GatewayUnavailable", "RouteNotApplied", "RoutePlan"]

_TOKEN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class GatewayError(Exception):
    """Any failure of the gateway."""


class RouteNotApplied(GatewayError):
    """The data plane did not take a plan, and the plan before it stays in force."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class GatewayUnavailable(GatewayError):
    """The data plane does not answer on its admin port."""


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A decision of the rollout controller, as the gateway applies it.

    `weights` are percent and add up to 100; empty means that no model is deployed, and every
    request is answered 503. `mirror` sends a copy of a share (0 < share <= 1) of the requests to an
    arm whose answers are discarded. A new `salt` deals sticky callers anew; keep it for a whole
    rollout.

    >>> plan = RoutePlan("d-7", {Arm.STABLE: 90, Arm.CANARY: 10}, mirror=None, salt="r-2")
    >>> plan.weights[Arm.CANARY]
    10
    """

    decision_id: str
    weights: Mapping[Arm, int]
    mirror: tuple[Arm, float] | None = None
    salt: str = "0"

    def __post_init__(self) -> None:
        for name in ("decision_id", "salt"):
            if not _TOKEN.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: 1 to 128 letters, digits, `_.:-`")
        weights = {Arm(arm): weight for arm, weight in self.weights.items()}
        if weights and (min(weights.values()) < 0 or sum(weights.values()) != 100):
            raise ValueError(f"weights: must not be negative and add up to 100, found {weights}")
        if Arm.SHADOW in weights:
            raise ValueError("weights: the shadow arm is mirrored to, it gets no weight")
        if self.mirror is not None and not 0 < self.mirror[1] <= 1:
            raise ValueError(f"mirror: the share is above 0 and at most 1, found {self.mirror[1]}")
        object.__setattr__(self, "weights", MappingProxyType(weights))
