"""The arms that should run: written by the rollout controller, carried out by the supervisor.

The two are different processes, and either may be restarted at any time; between them is one file,
`arms.json`, replaced whole::

    {"generation": 7, "arms": {"stable": {"version": "3", "path": "/.../models/3",
                                          "digest": "sha256:..."}}}

An arm that is not listed is stopped; one whose entry changed is stopped, then started anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from coalmine.arms import Arm
from coalmine.fencing import Fence
from coalmine.rollout import DeployedModel
from coalmine.stack._errors import StackError
from coalmine.stack._ports import url

__all__ = ["DesiredArms", "LocalArmHost", "read_arms"]


@dataclass(frozen=True, slots=True)
class DesiredArms:
    """The content of `arms.json`."""

    generation: int = 0
    """Counts the changes."""

    arms: Mapping[Arm, DeployedModel] = field(default_factory=dict)


def read_arms(path: Path) -> DesiredArms:
    """What should run; nothing, if nobody has said so yet."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        arms = {Arm(arm): _model(entry) for arm, entry in content["arms"].items()}
        return DesiredArms(int(content["generation"]), arms)
    except FileNotFoundError:
        return DesiredArms()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{path}: not as the rollout controller writes it: {error!r}") from error


def _model(entry: dict[str, str]) -> DeployedModel:
    return DeployedModel(entry["version"], Path(entry["path"]), entry["digest"])


class LocalArmHost:
    """Deploys model versions on the arms of a local stack (rollout's `ArmHost`)."""

    def __init__(self, path: Path, *, model_name: str, ports: Mapping[Arm, int]) -> None:
        self._path = path
        self._fence = Fence(path.with_suffix(".fence"))
        self._model_name = model_name
        self._ports = ports
        self._token = 0

    def claim(self, token: int) -> None:
        """Refuse the writes of smaller tokens from here on; `FencedOff` if a larger one claimed."""
        self._fence.claim(token)
        self._token = token

    def deploy(self, arm: Arm, model: DeployedModel) -> None:
        """Ask for a model version on an arm; durable when this returns, `ready` once it answers."""
        desired = read_arms(self._path)
        if desired.arms.get(arm) != model:
            self._write(replace(desired, arms={**desired.arms, arm: model}))

    def retire(self, arm: Arm) -> None:
        """Ask for an arm to be stopped."""
        desired = read_arms(self._path)
        if arm in desired.arms:
            left = {each: model for each, model in desired.arms.items() if each != arm}
            self._write(replace(desired, arms=left))

    def current(self) -> dict[Arm, DeployedModel]:
        """What was asked for last."""
        return dict(read_arms(self._path).arms)

    async def ready(self, arm: Arm, version: str) -> bool:
        """Whether the arm's server answers, and with this version."""
        model = f"{url(self._ports[arm])}/v2/models/{self._model_name}"
        # The environment's proxies are not for loopback, and reading certificates for plain HTTP
        # would cost more than the calls.
        async with httpx.AsyncClient(timeout=2.0, trust_env=False, verify=False) as client:
            try:
                state = await client.get(f"{model}/ready")
                metadata = await client.get(model)
                served = metadata.json().get("versions") if metadata.is_success else None
            except (httpx.HTTPError, ValueError, AttributeError):
                return False
        return state.status_code == 200 and served == [version]

    def _write(self, desired: DesiredArms) -> None:
        arms = {
            str(arm): {**asdict(model), "path": str(model.path)}
            for arm, model in desired.arms.items()
        }
        content = json.dumps({"generation": desired.generation + 1, "arms": arms}, indent=2)
        self._fence.replace(self._path, content.encode(), token=self._token)
