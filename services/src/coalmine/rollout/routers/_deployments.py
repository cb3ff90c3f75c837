"""Reading a Deployment: the model that its pods run, once every old pod is out of the way."""

from __future__ import annotations

from coalmine.rollout.routers._kserve import SOURCE_URI
from coalmine.rollout.routers._kubernetes import DEPLOYMENT, Kubernetes

__all__ = ["running_model"]


def running_model(api: Kubernetes, name: str) -> str | None:
    """The storage URI that all pods of a Deployment serve.

    None while it has none that answer, or pods of two templates. An available replica alone proves
    nothing: it may be one of the template before.
    """
    found = api.get(DEPLOYMENT, name)
    if found is None:
        return None
    status = found.get("status", {})
    replicas = status.get("replicas", 0)
    rolled_out = (
        status.get("observedGeneration") == found["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == replicas
        and status.get("availableReplicas", 0) > 0
    )
    if not rolled_out:
        return None
    template = found["spec"]["template"].get("metadata", {})
    model = (template.get("annotations") or {}).get(SOURCE_URI)
    return None if model is None else str(model)
