"""Two InferenceServices under one HTTPRoute of our own: for every KServe, with a mirror.

The arms are whole InferenceServices, `NAME-stable`, `NAME-canary` and `NAME-shadow`, transformer
and all, so that versions never mix. `NAME-stable` and the route are there before; the other two are
made as copies of stable, and deleted. Only the backends and the mirror of the route are changed.
"""

from __future__ import annotations

import copy
from typing import Any

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied, RoutePlan
from coalmine.rollout._protocols import DeployedModel
from coalmine.rollout.routers._cluster import ClusterDataPlane, ModelUri, Observed, Uris
from coalmine.rollout.routers._deployments import running_model
from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._gateway_api import acceptance, backend_shares
from coalmine.rollout.routers._kserve import check_standard, model_of, set_model
from coalmine.rollout.routers._kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, Kubernetes, Object

__all__ = ["HttpRoute"]

_MIRROR = "RequestMirror"
#: KServe's services answer on it.
_PORT = 80
_MILLION = 1_000_000


class HttpRoute(ClusterDataPlane):
    """One InferenceService for each arm, in deployment mode `Standard`, behind one HTTPRoute."""

    arms = frozenset(Arm)
    mirrors = True

    def __init__(
        self,
        api: Kubernetes,
        *,
        name: str,
        model_uri: ModelUri,
        http_route: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(api, name=name, model_uri=model_uri, **common)
        self._route_name = http_route or name

    # -- router -----------------------------------------------------------------------------------

    def _ask(self, plan: RoutePlan, uris: Uris) -> None:
        backends = self._backends(plan, uris)
        mirror = None if plan.mirror is None else self._service_of(plan.mirror[0])

        def change(route: Object) -> Object:
            # After the route was read, so that a controller that slept through its lease does not
            # send requests to an arm that was retired meanwhile.
            self._check_running(plan, uris)
            for rule in _rules(route):
                before = rule.get("backendRefs") or []
                port = next((b["port"] for b in before if "port" in b), _PORT)
                rule["backendRefs"] = [
                    _backend(name, port, before, weight) for name, weight in backends.items()
                ]
                others = [f for f in rule.get("filters") or () if f["type"] != _MIRROR]
                if plan.mirror is not None and mirror is not None:
                    others.append(_mirror(mirror, port, plan.mirror[1]))
                if others or "filters" in rule:
                    rule["filters"] = others
            return route

        self._update(HTTP_ROUTE, self._route_name, change, owned=_owned)

    def _check_running(self, plan: RoutePlan, uris: Uris) -> None:
        """Refuse requests to a candidate that cannot answer; the way back to stable is free."""
        arms = [arm for arm in (Arm.CANARY, Arm.BASELINE) if plan.weights.get(arm)]
        arms += [plan.mirror[0]] if plan.mirror else []
        for arm in arms:
            running = self._model(self._service_of(arm))
            if running != uris.get(arm):
                found = running or "nothing that answers"
                wanted = uris.get(arm)
                raise RouteNotApplied(
                    f"inferenceservices {self._isvc(arm)}: its pods run {found}, not {wanted}"
                )

    def _asked(self, plan: RoutePlan, uris: Uris) -> bool:
        route = self._route()
        mirror = None
        if plan.mirror is not None:
            mirror = (self._service_of(plan.mirror[0]), plan.mirror[1])
        weights = {name: weight for name, weight in self._backends(plan, uris).items() if weight}
        return backend_shares(route) == weights and _mirror_of(route) == mirror

    def _backends(self, plan: RoutePlan, uris: Uris) -> dict[str, int]:
        # As at the Envoy gateway: gateways that hash callers keep them then as weights rise.
        order = (Arm.CANARY, Arm.STABLE, Arm.BASELINE)
        return {self._service_of(arm): plan.weights[arm] for arm in order if arm in plan.weights}

    def _observe(self, uris: Uris) -> Observed:
        route = self._route()
        taken = acceptance(route)
        weights = backend_shares(route)
        mirror = _mirror_of(route)
        stale = taken.stale or taken.refused
        if weights is None:
            stale = stale or f"the rules of httproutes {self._route_name} differ"
        shares: dict[str, int] = {}
        for name, share in (weights or {}).items():
            model = self._model(name) or name
            shares[model] = shares.get(model, 0) + share
        copies = None if mirror is None else (self._model(mirror[0]) or mirror[0], mirror[1])
        return Observed(
            shares=shares,
            by_arm={arm: (weights or {}).get(self._service_of(arm), 0) for arm in uris},
            mirror=copies,
            stale=stale,
            refused=taken.refused,
        )

    def _model(self, service: str) -> str | None:
        """The model behind a service: its own predictor's, or that of its transformer."""
        predictor = service.removesuffix("-transformer").removesuffix("-predictor") + "-predictor"
        return running_model(self._api, predictor)

    def _service_of(self, arm: Arm) -> str:
        name = self._isvc(arm)
        # A copy has the components of stable.
        service = self._inference_service(Arm.STABLE)
        component = "transformer" if service["spec"].get("transformer") else "predictor"
        return f"{name}-{component}"

    def _route(self) -> Object:
        route = self._api.get(HTTP_ROUTE, self._route_name)
        if route is None:
            raise ClusterRefused(
                f"httproutes: there is no {self._route_name} in namespace {self._api.namespace}; "
                "create it with your gateway as its parent, and one rule"
            )
        _rules(route)
        return route

    # -- arm host ---------------------------------------------------------------------------------

    def _deploy(self, arm: Arm, model: DeployedModel, uris: Uris) -> None:
        uri = self._model_uri.of(model)
        if arm is not Arm.STABLE and self._api.get(INFERENCE_SERVICE, self._isvc(arm)) is None:
            self._wish.check(self._token)
            self._api.create(INFERENCE_SERVICE, self._copy(arm, uri))

        def change(service: Object) -> Object:
            check_standard(service, literally=False)
            if service["metadata"].get("deletionTimestamp"):
                raise RouteNotApplied(f"inferenceservices {self._isvc(arm)}: is being deleted")
            set_model(service["spec"]["predictor"], uri)
            return service

        self._update(INFERENCE_SERVICE, self._isvc(arm), change, owned=_model_in)

    def _copy(self, arm: Arm, uri: str) -> Object:
        stable = self._inference_service(Arm.STABLE)
        meta = stable["metadata"]
        annotations = {
            key: value
            for key, value in (meta.get("annotations") or {}).items()
            if key != "kubectl.kubernetes.io/last-applied-configuration"
        }
        spec = copy.deepcopy(stable["spec"])
        set_model(spec["predictor"], uri)
        return {
            "apiVersion": stable["apiVersion"],
            "kind": stable["kind"],
            "metadata": {
                "name": self._isvc(arm),
                "namespace": self._api.namespace,
                "labels": {**(meta.get("labels") or {}), "coalmine.dev/arm": arm.value},
                "annotations": annotations,
            },
            "spec": spec,
        }

    def _retire(self, arm: Arm, uris: Uris) -> None:
        if arm is not Arm.STABLE:
            self._wish.check(self._token)
            self._api.delete(INFERENCE_SERVICE, self._isvc(arm))

    def _holds(self, arm: Arm, uris: Uris) -> bool:
        service = self._api.get(INFERENCE_SERVICE, self._isvc(arm))
        return service is not None and _model_in(service) == uris[arm]

    def _ready(self, arm: Arm, uris: Uris) -> bool:
        service = self._api.get(INFERENCE_SERVICE, self._isvc(arm))
        if service is None:
            return False
        conditions = service.get("status", {}).get("conditions") or ()
        answers = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return answers and running_model(self._api, f"{self._isvc(arm)}-predictor") == uris[arm]

    def _isvc(self, arm: Arm) -> str:
        return f"{self._name}-{arm.value}"

    def _inference_service(self, arm: Arm) -> Object:
        service = self._api.get(INFERENCE_SERVICE, self._isvc(arm))
        if service is None:
            raise ClusterRefused(
                f"inferenceservices: there is no {self._isvc(arm)} in namespace "
                f"{self._api.namespace}; create it, the other arms are copies of it"
            )
        check_standard(service, literally=False)
        model_of(service["spec"]["predictor"], service)
        return service


def _rules(route: Object) -> list[Object]:
    rules: list[Object] = route["spec"].get("rules") or []
    if not rules:
        raise ClusterRefused(f"httproutes {route['metadata']['name']}: spec.rules: has no rule")
    return rules


def _backend(name: str, port: int, before: list[Object], weight: int) -> Object:
    """A backend, with whatever filters somebody gave it."""
    known = next((b for b in before if b["name"] == name), {})
    return {**known, "kind": "Service", "name": name, "port": port, "weight": weight}


def _mirror(name: str, port: int, share: float) -> Object:
    backend = {"kind": "Service", "name": name, "port": port}
    mirror: Object = {"backendRef": backend}
    if share < 1:  # Needs Gateway API 1.3; all of the requests need no such field.
        mirror["fraction"] = {"numerator": round(share * _MILLION), "denominator": _MILLION}
    return {"type": _MIRROR, "requestMirror": mirror}


def _mirror_of(route: Object) -> tuple[str, float] | None:
    found = []
    for rule in _rules(route):
        mirrors = [f["requestMirror"] for f in rule.get("filters") or () if f["type"] == _MIRROR]
        if not mirrors:
            return None
        fraction = mirrors[0].get("fraction") or {"numerator": 1, "denominator": 1}
        if "percent" in mirrors[0]:
            fraction = {"numerator": mirrors[0]["percent"], "denominator": 100}
        share = fraction["numerator"] / fraction.get("denominator", 100)
        found.append((mirrors[0]["backendRef"]["name"], share))
    return found[0]


def _owned(route: Object) -> object:
    return [
        [(b["name"], b.get("weight", 1)) for b in rule.get("backendRefs") or ()]
        for rule in _rules(route)
    ], _mirror_of(route)


def _model_in(service: Object) -> object:
    return model_of(service["spec"]["predictor"], service)
