"""What a cluster's router raises, below the gateway's own tree::

GatewayError
├── RouteNotApplied          the cluster did not take a plan; its text says what is missing
│   └── ClusterRefused       the API server, KServe's admission or the gateway says no
└── GatewayUnavailable       the API server does not answer
ClusterConfigError           no way to reach the API server: the kubeconfig, or the pod's own files
"""

from __future__ import annotations

from coalmine.gateway import RouteNotApplied

__all__ = ["ClusterConfigError", "ClusterRefused"]


class ClusterRefused(RouteNotApplied):
    """The API server, KServe's admission or the gateway says no; trying again will not help."""


class ClusterConfigError(Exception):
    """There is no way to reach the API server; the text names the file and the key."""
