"""Reading an HTTPRoute: the shares it asks for, and whether the gateway took it."""

from __future__ import annotations

from dataclasses import dataclass

from coalmine.rollout.routers._kubernetes import Object

__all__ = ["Acceptance", "acceptance", "backend_shares"]

_CONDITIONS = ("Accepted", "ResolvedRefs")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the gateway says of a route; both None: it took the route as it stands."""

    stale: str | None = None
    refused: str | None = None


def acceptance(route: Object) -> Acceptance:
    """Whether every parent took this generation of the route."""
    name, generation = route["metadata"]["name"], route["metadata"]["generation"]
    parents = route.get("status", {}).get("parents") or ()
    wanted = max(1, len(route["spec"].get("parentRefs") or ()))
    if len(parents) < wanted:
        return Acceptance(stale=f"httproutes {name}: no gateway has taken it up yet")
    for parent in parents:
        conditions = {c["type"]: c for c in parent.get("conditions") or ()}
        for kind in _CONDITIONS:
            found = conditions.get(kind)
            if found is None or found.get("observedGeneration") != generation:
                return Acceptance(stale=f"httproutes {name}: the gateway did not see it yet")
            if found["status"] == "False":
                text = f"{found.get('reason', '')}: {found.get('message', '')}"
                return Acceptance(refused=f"httproutes {name}: {kind} is False: {text}")
            if found["status"] != "True":
                return Acceptance(stale=f"httproutes {name}: {kind} is {found['status']}")
    return Acceptance()


def backend_shares(route: Object) -> dict[str, int] | None:
    """Percent of requests by service; None if rules differ, or it is not in whole percent."""
    per_rule = []
    for rule in route["spec"].get("rules") or ():
        weights: dict[str, int] = {}
        for backend in rule.get("backendRefs") or ():
            weight = int(backend.get("weight", 1))
            weights[backend["name"]] = weights.get(backend["name"], 0) + weight
        weights = {name: weight for name, weight in weights.items() if weight}
        total = sum(weights.values())
        if any(weight * 100 % total for weight in weights.values()):
            return None
        per_rule.append({name: weight * 100 // total for name, weight in weights.items()})
    if not per_rule or any(shares != per_rule[0] for shares in per_rule):
        return None
    return per_rule[0]
