"""What a rollout acts upon: the gateway, the machines that run arms, and the model registry.

Every call is made again after a crash, so each must be harmless when repeated. What cannot be done
now raises; the controller tries again on its next tick, and says so in the rollout's `note`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coalmine.arms import Arm
from coalmine.gateway import RoutePlan

__all__ = ["ArmHost", "ClaimedRegistry", "DeployedModel", "ModelRegistry", "Router"]


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """One model version on an arm."""

    version: str
    path: Path
    """Its model directory, absolute."""

    digest: str
    """`sha256:...` of what is served (`coalmine.modeldir.model_digest`)."""


class Router(Protocol):
    """The data plane's weights, as `coalmine.gateway.EnvoyGateway` applies them."""

    def claim(self, token: int) -> None:
        """From now on refuse what comes with a smaller token; blocks, and is called in a thread.

        `coalmine.fencing.FencedOff` if a larger one has claimed already, and so at every later
        call that would write.
        """
        ...

    async def apply(self, plan: RoutePlan) -> None:
        """Return once requests are routed by the plan; raise if the data plane did not take it."""
        ...

    async def applied(self) -> RoutePlan | None:
        """The plan in force, as the data plane itself tells it; None before the first."""
        ...


class ArmHost(Protocol):
    """Where the model servers run. `ready` is called on the loop, the others in a thread."""

    def claim(self, token: int) -> None:
        """As `Router.claim`."""
        ...

    def deploy(self, arm: Arm, model: DeployedModel) -> None:
        """Ask for a model version on an arm; return once that wish is durable."""
        ...

    def retire(self, arm: Arm) -> None:
        """Ask for an arm to be stopped; return once that wish is durable."""
        ...

    def current(self) -> dict[Arm, DeployedModel]:
        """What was asked for last."""
        ...

    async def ready(self, arm: Arm, version: str) -> bool:
        """Whether the arm answers requests, and with this version."""
        ...


class ModelRegistry(Protocol):
    """The model versions. Every method blocks, and is called in a thread."""

    def materialise(self, version: str) -> Path:
        """The model directory of a version, copied to this machine if it was not here."""
        ...

    def champion(self) -> str | None:
        """The version that should serve; None before the first promotion."""
        ...

    def promote(self, version: str) -> None:
        """Make a version the champion."""
        ...

    def reject(self, version: str, reason: str) -> None:
        """Note that a version was rolled back or given up, and why."""
        ...


class ClaimedRegistry(ModelRegistry, Protocol):
    """A registry that several controllers may write to, of which the newest does."""

    def claim(self, token: int) -> None:
        """As `Router.claim`."""
        ...
