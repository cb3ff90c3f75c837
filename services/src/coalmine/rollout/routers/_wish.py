"""What was asked for on each arm: kept in a ConfigMap, since an InferenceService cannot hold it.

Annotations of an InferenceService are copied into its pods' template, so that a note there would
start new pods or revisions. The ConfigMap `coalmine-NAME` has the form of the local `arms.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from coalmine.arms import Arm
from coalmine.rollout._protocols import DeployedModel
from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._kubernetes import CONFIG_MAP, Kubernetes, Object

__all__ = ["Wish"]

_KEY = "arms.json"


class Wish:
    """The models asked for, by arm; durable in the cluster."""

    def __init__(self, api: Kubernetes, *, name: str) -> None:
        self._api = api
        self._name = f"coalmine-{name}"

    def read(self) -> dict[Arm, DeployedModel]:
        """What was asked for last; nothing, if nobody has asked yet."""
        found = self._api.get(CONFIG_MAP, self._name)
        if found is None:
            return {}
        try:
            arms = json.loads(found["data"][_KEY])
            return {
                Arm(arm): DeployedModel(entry["version"], Path(entry["path"]), entry["digest"])
                for arm, entry in arms.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClusterRefused(
                f"configmaps {self._name}: data.{_KEY}: not as the rollout controller writes it "
                f"({error!r}); correct or delete it"
            ) from error

    def write(self, arms: Mapping[Arm, DeployedModel]) -> None:
        """Replace it whole."""
        content = json.dumps(
            {
                arm.value: {"version": m.version, "path": str(m.path), "digest": m.digest}
                for arm, m in arms.items()
            }
        )
        if self._api.get(CONFIG_MAP, self._name) is None:
            meta = {"name": self._name, "namespace": self._api.namespace}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {}}
            self._api.create(CONFIG_MAP, body)

        def replace(found: Object) -> Object:
            found["data"] = {**(found.get("data") or {}), _KEY: content}
            return found

        self._api.update(CONFIG_MAP, self._name, replace, owned=lambda o: o.get("data"))
