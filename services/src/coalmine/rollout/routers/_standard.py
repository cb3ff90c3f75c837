"""KServe without Knative: the canary is an entry of `spec.canary[]` (KServe 0.21 or newer).

KServe runs a deployment for each predictor, named after it, and weights their services in the
HTTPRoutes it writes. Its own status only echoes the spec, so what is believed is the route, the
gateway's acceptance of it, and the model in the template of the deployment behind each service.

A predictor has a new name for every version: KServe calls a canary ready as soon as any replica
answers, also one of the template before.
"""

from __future__ import annotations

import math
import re
from typing import Any

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied, RoutePlan
from coalmine.rollout._protocols import DeployedModel
from coalmine.rollout.routers._cluster import ClusterDataPlane, Observed, Uris
from coalmine.rollout.routers._deployments import running_model
from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._gateway_api import acceptance, backend_shares
from coalmine.rollout.routers._kserve import (
    check_collocated,
    check_standard,
    model_of,
    set_model,
)
from coalmine.rollout.routers._kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, Object

__all__ = ["KServeStandard"]

#: What a predictor is, beside the fields that a canary must not have.
_AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")


class KServeStandard(ClusterDataPlane):
    """One InferenceService in deployment mode `Standard`, behind the Gateway API."""

    # -- router -----------------------------------------------------------------------------------

    def _ask(self, plan: RoutePlan, uris: Uris) -> None:
        def change(service: Object) -> Object:
            weights = self._weights(service, plan, uris)
            total = service["spec"]["predictor"].get("minReplicas") or 1
            for entry in _canaries(service):
                weight = weights[_uri(entry, service)]
                entry["trafficPercent"] = weight
                entry["predictor"]["minReplicas"] = _replicas(total, weight)
            return service

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _asked(self, plan: RoutePlan, uris: Uris) -> bool:
        service = self._service()
        weights = self._weights(service, plan, uris)
        return all(
            entry.get("trafficPercent", 0) == weights[_uri(entry, service)]
            for entry in _canaries(service)
        )

    def _weights(self, service: Object, plan: RoutePlan, uris: Uris) -> dict[str, int]:
        """Percent of every model in the spec; `RouteNotApplied` if one that is needed is not."""
        _check(service)
        found = [_uri(entry, service) for entry in (service["spec"], *_canaries(service))]
        weights = dict.fromkeys(found, 0)
        for arm, weight in plan.weights.items():
            if weight and uris[arm] not in weights:
                raise RouteNotApplied(
                    f"inferenceservices {self._name}: has no predictor with {arm.value}'s model "
                    f"{uris[arm]}, only {', '.join(found)}"
                )
            if weight:
                weights[uris[arm]] += weight
        return weights

    def _observe(self, uris: Uris) -> Observed:
        service = self._service()
        top = self._api.get(HTTP_ROUTE, self._name)
        if top is None:
            why = f"httproutes: there is no {self._name} yet; is KServe's enableGatewayApi true?"
            return Observed(shares={}, stale=why)
        shares: dict[str, int] = {}
        # The predictor's own host has a route beside the service's.
        for route in (top, self._api.get(HTTP_ROUTE, f"{self._name}-predictor")):
            if route is None:
                continue
            taken = acceptance(route)
            weights = backend_shares(route)
            if taken.stale or taken.refused:
                return Observed(
                    shares={}, stale=taken.stale or taken.refused, refused=taken.refused
                )
            if weights is None or (shares and weights != shares):
                return Observed(shares={}, stale=f"the rules of httproutes {self._name} differ")
            shares = weights
        return self._by_model(service, shares)

    def _by_model(self, service: Object, shares: dict[str, int]) -> Observed:
        asked = self._asked_of_services(service)
        stale = None
        if shares != asked:
            stale = f"httproutes {self._name}: routes {shares} and should route {asked}"
            if unready := self._unready(service):
                stale = f"{stale}: {unready}"
            elif len(shares) == 1:
                stale += "; KServe before 0.21 writes no weights: upgrade, or use `httproute`"
        by_model: dict[str, int] = {}
        for name, share in shares.items():
            model = running_model(self._api, name) or name
            by_model[model] = by_model.get(model, 0) + share
        return Observed(shares=by_model, stale=stale)

    def _asked_of_services(self, service: Object) -> dict[str, int]:
        weights = {
            self._backend(entry["predictor"]): int(entry.get("trafficPercent", 0))
            for entry in _canaries(service)
        }
        weights[self._backend(service["spec"]["predictor"])] = 100 - sum(weights.values())
        return {name: weight for name, weight in weights.items() if weight}

    def _unready(self, service: Object) -> str | None:
        for status in service.get("status", {}).get("canaryStatuses") or ():
            if not status.get("ready"):
                return f"predictor {status['name']} is not ready"
        return None

    def _backend(self, predictor: dict[str, Any]) -> str:
        """The deployment, and service, of a predictor."""
        name = predictor.get("name")
        return f"{self._name}-{name}-predictor" if name else f"{self._name}-predictor"

    # -- arm host ---------------------------------------------------------------------------------

    def _deploy(self, arm: Arm, model: DeployedModel, uris: Uris) -> None:
        uri = self._model_uri.of(model)

        def change(service: Object) -> Object:
            _check(service)
            if _uri(service["spec"], service) == uri:
                return service
            return (_add if arm is Arm.CANARY else _replace)(service, uri, _name_of(model))

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _retire(self, arm: Arm, uris: Uris) -> None:
        stable = uris.get(Arm.STABLE)

        def change(service: Object) -> Object:
            if stable is not None and _uri(service["spec"], service) != stable:
                raise RouteNotApplied(
                    f"inferenceservices {self._name}: stable's model is not in spec.predictor"
                )
            service["spec"].pop("canary", None)
            return service

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _holds(self, arm: Arm, uris: Uris) -> bool:
        service = self._service()
        entries = (service["spec"], *_canaries(service))
        return any(_uri(entry, service) == uris[arm] for entry in entries)

    def _ready(self, arm: Arm, uris: Uris) -> bool:
        service = self._service()
        for entry in (service["spec"], *_canaries(service)):
            if _uri(entry, service) == uris[arm]:
                return running_model(self._api, self._backend(entry["predictor"])) == uris[arm]
        return False

    def _service(self) -> Object:
        service = self._api.get(INFERENCE_SERVICE, self._name)
        if service is None:
            raise ClusterRefused(
                f"inferenceservices: there is no {self._name} in namespace {self._api.namespace}"
            )
        _check(service)
        return service


def _check(service: Object) -> None:
    check_standard(service, literally=True)
    check_collocated(service)
    model_of(service["spec"]["predictor"], service)


def _owned(service: Object) -> object:
    predictor = service["spec"]["predictor"]
    entries = [
        (e["predictor"].get("name"), e["predictor"].get("model"), e.get("trafficPercent", 0))
        for e in _canaries(service)
    ]
    return predictor.get("name"), predictor.get("model"), entries


def _canaries(service: Object) -> list[Object]:
    entries: list[Object] = service["spec"].get("canary") or []
    return entries


def _uri(entry: Object, service: Object) -> str:
    return model_of(entry["predictor"], service)


def _add(service: Object, uri: str, name: str) -> Object:
    """The canary, without requests; the list is one field to KServe, and is ours."""
    stable = service["spec"]["predictor"]
    entries = [entry for entry in _canaries(service) if _uri(entry, service) == uri]
    if name == stable.get("name"):
        name += "-b"
    # Without its own number, a canary of 0 % would have no pod, and never be ready.
    predictor = {"name": name, "minReplicas": 1, "model": {**stable["model"], "storageUri": uri}}
    service["spec"]["canary"] = entries or [{"predictor": predictor, "trafficPercent": 0}]
    return service


def _replace(service: Object, uri: str, name: str) -> Object:
    """Stable runs another model: the canary's takes its place without a restart.

    What was stable stays as an entry with the share it had, so that no request goes elsewhere and
    the way back is as quick. A stable predictor without a name cannot stay: KServe deletes it.
    """
    stable = service["spec"]["predictor"]
    entry = next((e for e in _canaries(service) if _uri(e, service) == uri), None)
    if entry is None:
        # No pod runs it: the deployment is rolled over, and keeps answering meanwhile.
        set_model(stable, uri)
        return service
    share = 100 - int(entry.get("trafficPercent", 0))
    taken = entry["predictor"]
    service["spec"]["predictor"] = {**stable, "name": taken["name"], "model": taken["model"]}
    service["spec"].pop("canary")
    if stable.get("name"):
        total = stable.get("minReplicas") or 1
        before = {k: v for k, v in stable.items() if k not in (*_AUTOSCALING, "minReplicas")}
        before["minReplicas"] = _replicas(total, share)
        service["spec"]["canary"] = [{"predictor": before, "trafficPercent": share}]
    elif share:
        raise RouteNotApplied(
            f"inferenceservices {service['metadata']['name']}: spec.predictor.name: is missing, so "
            f"that KServe would delete it while it has {share} % of the requests; name it"
        )
    return service


def _replicas(total: int, weight: int) -> int:
    """A canary's pods: its share of stable's, and one at least."""
    return max(1, math.ceil(total * weight / 100))


def _name_of(model: DeployedModel) -> str:
    version = re.sub(r"[^a-z0-9]+", "-", model.version.lower()).strip("-")[:16] or "x"
    digest = re.sub(r"[^a-z0-9]", "", model.digest.rpartition(":")[2].lower())[:8]
    return f"v{version}-{digest}".rstrip("-")
