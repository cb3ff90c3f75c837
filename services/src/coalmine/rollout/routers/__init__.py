"""The data planes of a cluster: KServe on Knative, KServe's `Standard` mode, or one HTTPRoute.

Each is router and arm host in one, over a small client of the Kubernetes API. `coalmine.gateway`
has the one of a laptop; all four pass one suite of contract checks.
"""

from coalmine.rollout.routers._access import ClusterAccess, cluster_access
from coalmine.rollout.routers._cluster import ClusterDataPlane, ModelUri
from coalmine.rollout.routers._errors import ClusterConfigError, ClusterRefused
from coalmine.rollout.routers._httproute import HttpRoute
from coalmine.rollout.routers._kubernetes import Kubernetes
from coalmine.rollout.routers._open import open_data_plane
from coalmine.rollout.routers._serverless import KServeServerless
from coalmine.rollout.routers._standard import KServeStandard

__all__ = [
    "ClusterAccess",
    "ClusterConfigError",
    "ClusterDataPlane",
    "ClusterRefused",
    "HttpRoute",
    "KServeServerless",
    "KServeStandard",
    "Kubernetes",
    "ModelUri",
    "cluster_access",
    "open_data_plane",
]
