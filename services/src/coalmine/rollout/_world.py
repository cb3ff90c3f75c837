"""What a controller acts upon, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from coalmine.modeldir import model_digest
from coalmine.rollout._protocols import (
    ArmHost,
    ClaimedRegistry,
    DeployedModel,
    ModelRegistry,
    Router,
)

__all__ = ["World", "materialise"]


@dataclass(frozen=True, slots=True)
class World:
    """The data plane, the machines and the registry, each of which knows the newest controller."""

    router: Router
    host: ArmHost
    registry: ClaimedRegistry


def materialise(registry: ModelRegistry, version: str) -> DeployedModel:
    """A version's directory on this machine, and its digest. Blocks."""
    path = registry.materialise(version).absolute()
    return DeployedModel(version, path, model_digest(path))
