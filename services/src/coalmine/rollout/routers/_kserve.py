"""What is common to KServe's deployment modes: where an InferenceService has its model."""

from __future__ import annotations

from typing import Any

from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._kubernetes import Object

__all__ = ["MODE", "SOURCE_URI", "check_collocated", "check_standard", "model_of", "set_model"]

#: The annotation of a pod's template by which KServe fetches the model: what a pod runs, for sure.
SOURCE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
MODE = "serving.kserve.io/deploymentMode"


def model_of(predictor: dict[str, Any], service: Object) -> str:
    """The storage URI of a predictor; `ClusterRefused` if it has none."""
    model = predictor.get("model") or {}
    if "storageUri" not in model:
        raise ClusterRefused(
            f"inferenceservices {service['metadata']['name']}: spec.predictor.model.storageUri: is "
            "missing; a bare custom container cannot be a canary: make it a ClusterServingRuntime, "
            "and name it in spec.predictor.model.runtime"
        )
    return str(model["storageUri"])


def set_model(predictor: dict[str, Any], uri: str) -> None:
    """Replace the model of a predictor."""
    predictor["model"] = {**predictor["model"], "storageUri": uri}


def check_collocated(service: Object) -> None:
    """Refuse a transformer of its own: KServe splits it from the predictor, and versions mix."""
    for component in ("transformer", "explainer"):
        if service["spec"].get(component):
            raise ClusterRefused(
                f"inferenceservices {service['metadata']['name']}: spec.{component}: KServe splits "
                "it apart from the predictor, so that versions mix (kserve#1669); run it inside "
                "the predictor, or use `cluster.router: httproute`"
            )


def check_standard(service: Object, *, literally: bool) -> None:
    """Refuse other deployment modes; KServe's canaries want the word `Standard` itself."""
    mode = (service["metadata"].get("annotations") or {}).get(MODE)
    allowed = ("Standard",) if literally else ("Standard", "RawDeployment")
    if mode not in allowed:
        raise ClusterRefused(
            f"inferenceservices {service['metadata']['name']}: metadata.annotations: {MODE}: must "
            f"be {' or '.join(allowed)}, found {mode!r}"
        )
