"""What was asked for on each arm: kept in a ConfigMap, since an InferenceService cannot hold it.

Annotations of an InferenceService are copied into its pods' template, so that a note there would
start new pods or revisions. The ConfigMap `coalmine-NAME` has the form of the local `arms.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from coalmine.arms import Arm
from coalmine.fencing import FencedOff
from coalmine.rollout._protocols import DeployedModel
from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._kubernetes import CONFIG_MAP, Kubernetes, Object

__all__ = ["Wish"]

_KEY = "arms.json"
_TOKEN = "controller"


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

    def claim(self, token: int) -> None:
        """Leave the mark of a token; `FencedOff` if there is that of a larger one."""
        self._change({}, token=token)

    def check(self, token: int) -> None:
        """`FencedOff` if a larger token has claimed."""
        _check(self._api.get(CONFIG_MAP, self._name), token)

    def write(self, arms: Mapping[Arm, DeployedModel], *, token: int) -> None:
        """Replace it whole; `FencedOff` if a larger token has claimed."""
        content = json.dumps(
            {
                arm.value: {"version": m.version, "path": str(m.path), "digest": m.digest}
                for arm, m in arms.items()
            }
        )
        self._change({_KEY: content}, token=token)

    def _change(self, data: Mapping[str, str], *, token: int) -> None:
        if self._api.get(CONFIG_MAP, self._name) is None:
            meta = {"name": self._name, "namespace": self._api.namespace}
            empty = {_KEY: "{}"}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": empty}
            self._api.create(CONFIG_MAP, body)

        def replace(found: Object) -> Object:
            # The server refuses the write if somebody claimed after this was read.
            _check(found, token)
            found["data"] = {**(found.get("data") or {}), **data, _TOKEN: str(token)}
            return found

        self._api.update(CONFIG_MAP, self._name, replace, owned=_arms)


def _arms(found: Object) -> object:
    return (found.get("data") or {}).get(_KEY)


def _check(found: Object | None, token: int) -> None:
    claimed = ((found or {}).get("data") or {}).get(_TOKEN, "0")
    if claimed.isdecimal() and int(claimed) > token:
        raise FencedOff(f"controller {claimed} has taken over from {token}; nothing is written")
