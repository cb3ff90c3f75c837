"""A plan as Envoy's route configuration, and back from what the admin port shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from coalmine.arms import Arm
from coalmine.fencing import Fence
from coalmine.gateway._files import write_atomically
from coalmine.gateway._plan import RoutePlan
from coalmine.spec import RoutingSpec

__all__ = [
    "ROUTE_CONFIG",
    "fence_of",
    "parse_plan",
    "render_routes",
    "routes_file",
    "write_routes",
]

#: The name of the route configuration, in the bootstrap, the file and the statistics.
ROUTE_CONFIG = "coalmine"

_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_METADATA = "coalmine"
_MILLION = 1_000_000
_OUTDATED = "outdated"
#: The order of the arms in the split. The canary comes first: sticky hashes below its weight are
#: its own, so that a caller who reached it stays there as the weight rises. The baseline grows from
#: the other end, so that its callers stay too.
_ORDER = (Arm.CANARY, Arm.STABLE, Arm.BASELINE)
#: Waits between retries grow from the first to the second, in seconds; each is drawn at random
#: below its limit, so that callers do not return all at once.
_BACK_OFF = (0.025, 1.0)


def routes_file(directory: Path) -> Path:
    """Where Envoy looks for its routes, below the gateway's directory."""
    return directory / "routes" / "rds.yaml"


def fence_of(directory: Path) -> Fence:
    """Who may write the routes; beside the directory that Envoy watches."""
    return Fence(directory / "fence")


def write_routes(
    directory: Path, plan: RoutePlan, routing: RoutingSpec, *, token: int | None = None
) -> None:
    """Write the routes of a plan for Envoy to pick up; durable when this returns.

    `FencedOff` if a larger token has claimed them; None: nobody is asked.
    """
    path = routes_file(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = render_routes(plan, routing).encode()
    if token is None:
        write_atomically(path, content)
    else:
        fence_of(directory).replace(path, content, token=token)


def render_routes(plan: RoutePlan, routing: RoutingSpec) -> str:
    """The discovery response for a plan."""
    # Envoy does not look at the version of routes that are the same as before, and would show the
    # old one for ever: a new decision with the same weights must differ in something.
    metadata = {
        "salt": plan.salt,
        "decision": plan.decision_id,
        "routing": _digest(routing),
    }
    route: dict[str, Any] = {
        "match": {"prefix": "/"},
        "metadata": {"filter_metadata": {_METADATA: metadata}},
    }
    if plan.weights:
        route["route"] = _forward(plan, routing)
    else:
        body = {"inline_string": "no model version is deployed yet"}
        route["direct_response"] = {"status": 503, "body": body}
    resource = {
        "@type": _TYPE,
        "name": ROUTE_CONFIG,
        # Without it Envoy takes a route to a cluster it does not have, and answers 503 there.
        "validate_clusters": True,
        "virtual_hosts": [
            {"name": "arms", "domains": ["*"], "routes": [*_chosen(plan, routing), route]}
        ],
        # A request without any id still has one and the same at every arm that sees it. A header
        # of its own, since one in `x-request-id` would win over the id inside the caller's body.
        "request_headers_to_add": [
            {
                "header": {"key": "x-coalmine-request-id", "value": "%UNIQUE_ID%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    response = {"version_info": plan.decision_id, "resources": [resource]}
    return yaml.safe_dump(response, sort_keys=False)


def _chosen(plan: RoutePlan, routing: RoutingSpec) -> list[dict[str, Any]]:
    """The routes of requests whose header names an arm; before the split, which they are not in."""
    name = routing.arm_header
    if name is None or not plan.weights:
        return []
    arms = [*plan.weights, *([plan.mirror[0]] if plan.mirror else [])]
    routes: list[dict[str, Any]] = [
        {
            "match": {
                "prefix": "/",
                "headers": [{"name": name, "string_match": {"exact": arm.value}}],
            },
            "route": {"cluster": arm.value, **_tries(routing)},
        }
        for arm in arms
    ]
    # Not the split: a tester who asks for the canary must not take stable's answers for its.
    body = f"{name}: names no arm that has a model now; there are: {', '.join(arms)}"
    refused = {"match": {"prefix": "/", "headers": [{"name": name, "present_match": True}]}}
    routes.append({**refused, "direct_response": {"status": 404, "body": {"inline_string": body}}})
    return routes


def _tries(routing: RoutingSpec) -> dict[str, Any]:
    return {
        "timeout": _seconds(routing.timeout),
        "retry_policy": {
            # Inference is idempotent: a request whose connection broke is sent again.
            "retry_on": "connect-failure,refused-stream,reset",
            "num_retries": routing.retries,
            "retry_back_off": {
                "base_interval": _seconds(_BACK_OFF[0]),
                "max_interval": _seconds(_BACK_OFF[1]),
            },
        },
    }


def _forward(plan: RoutePlan, routing: RoutingSpec) -> dict[str, Any]:
    clusters: dict[str, Any] = {
        "clusters": [
            {"name": arm.value, "weight": plan.weights[arm]}
            for arm in _ORDER
            if arm in plan.weights
        ]
    }
    action: dict[str, Any] = {"weighted_clusters": clusters, **_tries(routing)}
    if routing.sticky_header is not None:
        clusters["use_hash_policy"] = True
        salted = {"pattern": {"regex": "^"}, "substitution": f"{plan.salt}/"}
        header = {"header_name": routing.sticky_header, "regex_rewrite": salted}
        action["hash_policy"] = [{"header": header}]
    if plan.mirror is not None:
        arm, share = plan.mirror
        fraction = {"numerator": round(share * _MILLION), "denominator": "MILLION"}
        action["request_mirror_policies"] = [
            {
                "cluster": arm.value,
                "runtime_fraction": {"default_value": fraction},
                "disable_shadow_host_suffix_append": True,
            }
        ]
    return action


def parse_plan(dump: Iterable[dict[str, Any]], routing: RoutingSpec) -> RoutePlan | None:
    """The plan in force, from the dynamic route configurations of Envoy's `config_dump`.

    Its decision is `outdated` if it was applied with another routing than this, such as that of the
    service file before an edit.
    """
    for entry in dump:
        config = entry.get("route_config", {})
        if config.get("name") != ROUTE_CONFIG:
            continue
        # The split comes last, behind the routes of chosen arms.
        route = config["virtual_hosts"][0]["routes"][-1]
        action = route.get("route", {})
        clusters = action.get("weighted_clusters", {}).get("clusters", ())
        metadata = route["metadata"]["filter_metadata"][_METADATA]
        current = metadata.get("routing") == _digest(routing)
        return RoutePlan(
            decision_id=entry["version_info"] if current else _OUTDATED,
            # Protobuf's JSON leaves a weight of zero out.
            weights={Arm(cluster["name"]): int(cluster.get("weight", 0)) for cluster in clusters},
            mirror=_mirror(action.get("request_mirror_policies", ())),
            salt=metadata["salt"],
        )
    return None


def _digest(routing: RoutingSpec) -> str:
    return hashlib.sha256(routing.model_dump_json().encode()).hexdigest()[:16]


def _mirror(policies: Iterable[dict[str, Any]]) -> tuple[Arm, float] | None:
    for policy in policies:
        fraction = policy["runtime_fraction"]["default_value"]
        return Arm(policy["cluster"]), fraction.get("numerator", 0) / _MILLION
    return None


def _seconds(value: float) -> str:
    return f"{value:.3f}s"
