"""The gateway: Envoy as the one door to the arms, driven by files.

The clusters are static, one per arm; only the routes change. A plan is written to a watched file,
and counts as applied when Envoy's admin port shows it.
"""

from coalmine.gateway._bootstrap import bootstrap_file, write_bootstrap
from coalmine.gateway._envoy import EnvoyGateway, envoy_binary, envoy_command
from coalmine.gateway._plan import GatewayError, GatewayUnavailable, RouteNotApplied, RoutePlan
from coalmine.gateway._routes import write_routes

__all__ = [
    "EnvoyGateway",
    "GatewayError",
    "GatewayUnavailable",
    "RouteNotApplied",
    "RoutePlan",
    "bootstrap_file",
    "envoy_binary",
    "envoy_command",
    "write_bootstrap",
    "write_routes",
]
