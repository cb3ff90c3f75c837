"""From the service file to the data plane of a cluster."""

from __future__ import annotations

from collections.abc import Mapping

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.rollout.routers._access import cluster_access
from coalmine.rollout.routers._cluster import ClusterDataPlane, ModelUri
from coalmine.rollout.routers._errors import ClusterConfigError
from coalmine.rollout.routers._httproute import HttpRoute
from coalmine.rollout.routers._kubernetes import Kubernetes
from coalmine.rollout.routers._serverless import KServeServerless
from coalmine.rollout.routers._standard import KServeStandard
from coalmine.spec import ServiceSpec

__all__ = ["open_data_plane"]

_KINDS: dict[str, type[KServeServerless] | type[KServeStandard] | type[HttpRoute]] = {
    "kserve-serverless": KServeServerless,
    "kserve-standard": KServeStandard,
    "httproute": HttpRoute,
}


def open_data_plane(
    service: ServiceSpec, *, environ: Mapping[str, str], clock: Clock = SYSTEM_CLOCK
) -> ClusterDataPlane:
    """The data plane of a service's `cluster` section: an async context manager.

    `environ` tells how to reach the cluster (`cluster_access`). `ClusterConfigError` if that or the
    section is missing, or if the data plane cannot do what the service's rollouts ask for.
    """
    spec = service.cluster
    if spec is None:
        raise ClusterConfigError(
            "cluster: the service file has no such section; add one with `router` and `model_uri`"
        )
    if service.rollout.shadow is not None and not _KINDS[spec.router].mirrors:
        raise ClusterConfigError(
            f"rollout.shadow: {spec.router} cannot mirror requests; set it to null, or use "
            "`cluster.router: httproute`"
        )
    if service.rollout.baseline and Arm.BASELINE not in _KINDS[spec.router].arms:
        raise ClusterConfigError(
            f"rollout.baseline: {spec.router} has no third arm for a second copy of stable; set it "
            "to false, or use `cluster.router: httproute`"
        )
    api = Kubernetes(cluster_access(environ), namespace=spec.namespace)
    name = spec.inference_service or service.name
    model_uri = ModelUri(spec.model_uri, name=service.name)
    if spec.router == "httproute":
        route = spec.http_route or service.name
        return HttpRoute(api, name=name, model_uri=model_uri, http_route=route, clock=clock)
    return _KINDS[spec.router](api, name=name, model_uri=model_uri, clock=clock)
