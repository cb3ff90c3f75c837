"""KServe without Knative: the canary is an entry of `spec.canary[]` (KServe 0.21 or newer).

KServe runs a deployment for each predictor, named after it, and weights their services in the
HTTPRoutes it writes. Its own status only echoes the spec, so what is believed is the route, the
gateway's acceptance of it, and the model in the template of the deployment behind each service.

A predictor has a new name for every version: KServe calls a canary ready as soon as any replica
answers, also one of the template before. The baseline is an entry of a fixed name, by which it is
told from stable, whose model it has.
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

#: The predictor of the baseline.
_BASELINE = "coalmine-baseline"
#: What a predictor is, beside the fields that a canary must not have.
_AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")


class KServeStandard(ClusterDataPlane):
    """One InferenceService in deployment mode `Standard`, behind the Gateway API."""

    arms = frozenset({Arm.STABLE, Arm.CANARY, Arm.BASELINE})

    # -- router -----------------------------------------------------------------------------------

    def _ask(self, plan: RoutePlan, uris: Uris) -> None:
        def change(service: Object) -> Object:
            weights = self._weights(service, plan, uris)
            total = service["spec"]["predictor"].get("minReplicas") or 1
            for entry in _canaries(service):
                weight = weights[_key(entry, service)]
                entry["trafficPercent"] = weight
                entry["predictor"]["minReplicas"] = _replicas(total, weight)
            return service

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _asked(self, plan: RoutePlan, uris: Uris) -> bool:
        service = self._service()
        weights = self._weights(service, plan, uris)
        return all(
            entry.get("trafficPercent", 0) == weights[_key(entry, service)]
            for entry in _canaries(service)
        )

    def _weights(self, service: Object, plan: RoutePlan, uris: Uris) -> dict[str, int]:
        """Percent of every model in the spec; `RouteNotApplied` if one that is needed is not.

        The baseline's is there by its name.
        """
        _check(service)
        found = [_key(entry, service) for entry in (service["spec"], *_canaries(service))]
        weights = dict.fromkeys(found, 0)
        for arm, weight in plan.weights.items():
            key = _BASELINE if arm is Arm.BASELINE else uris[arm]
            if weight and key not in weights:
                raise RouteNotApplied(
                    f"inferenceservices {self._name}: has no predictor with {arm.value}'s model "
                    f"{uris[arm]}, only {', '.join(found)}"
                )
            if weight:
                weights[key] += weight
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
        return self._by_model(service, shares, uris)

    def _by_model(self, service: Object, shares: dict[str, int], uris: Uris) -> Observed:
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
        by_arm = self._by_arm(service, shares, by_model, uris)
        return Observed(shares=by_model, by_arm=by_arm, stale=stale)

    def _by_arm(
        self, service: Object, shares: dict[str, int], by_model: dict[str, int], uris: Uris
    ) -> dict[Arm, int] | None:
        """Percent by arm, where there is a baseline, which no model tells from stable."""
        beside = [entry for entry in _canaries(service) if _is_baseline(entry)]
        stable, canary = uris.get(Arm.STABLE), uris.get(Arm.CANARY)
        if not beside or stable is None or stable == canary:
            return None
        share = shares.get(self._backend(beside[0]["predictor"]), 0)
        found = {Arm.STABLE: by_model.get(stable, 0) - share, Arm.BASELINE: share}
        return found if canary is None else {**found, Arm.CANARY: by_model.get(canary, 0)}

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
            if arm is Arm.BASELINE:
                return _add_baseline(service, uri)
            if _uri(service["spec"], service) == uri:
                return service
            return (_add if arm is Arm.CANARY else _replace)(service, uri, _name_of(model))

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _retire(self, arm: Arm, uris: Uris) -> None:
        stable = uris.get(Arm.STABLE)

        def change(service: Object) -> Object:
            if arm is Arm.BASELINE:
                return _with(service, [e for e in _canaries(service) if not _is_baseline(e)])
            if stable is not None and _uri(service["spec"], service) != stable:
                raise RouteNotApplied(
                    f"inferenceservices {self._name}: stable's model is not in spec.predictor"
                )
            return _with(service, [e for e in _canaries(service) if _is_baseline(e)])

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _holds(self, arm: Arm, uris: Uris) -> bool:
        return self._entry(arm, uris) is not None

    def _ready(self, arm: Arm, uris: Uris) -> bool:
        entry = self._entry(arm, uris)
        if entry is None:
            return False
        return running_model(self._api, self._backend(entry["predictor"])) == uris[arm]

    def _entry(self, arm: Arm, uris: Uris) -> Object | None:
        """Where the arm's model is written."""
        service = self._service()
        entries = [
            entry
            for entry in (service["spec"], *_canaries(service))
            if _is_baseline(entry) == (arm is Arm.BASELINE)
        ]
        return next((entry for entry in entries if _uri(entry, service) == uris[arm]), None)

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


def _with(service: Object, entries: list[Object]) -> Object:
    """The service with these canaries; the list is one field to KServe, and is ours."""
    service["spec"].pop("canary", None)
    if entries:
        service["spec"]["canary"] = entries
    return service


def _uri(entry: Object, service: Object) -> str:
    return model_of(entry["predictor"], service)


def _is_baseline(entry: Object) -> bool:
    return bool(entry["predictor"].get("name") == _BASELINE)


def _key(entry: Object, service: Object) -> str:
    """What an entry's weight is known by: its model, or that it is the baseline."""
    return _BASELINE if _is_baseline(entry) else _uri(entry, service)


def _add(service: Object, uri: str, name: str) -> Object:
    """The canary, without requests."""
    stable = service["spec"]["predictor"]
    beside = [entry for entry in _canaries(service) if _is_baseline(entry)]
    entries = [entry for entry in _canaries(service) if _key(entry, service) == uri]
    if name == stable.get("name"):
        name += "-b"
    # Without its own number, a canary of 0 % would have no pod, and never be ready.
    predictor = {"name": name, "minReplicas": 1, "model": {**stable["model"], "storageUri": uri}}
    return _with(service, [*(entries or [{"predictor": predictor, "trafficPercent": 0}]), *beside])


def _add_baseline(service: Object, uri: str) -> Object:
    """A second copy of stable, without requests."""
    others = [entry for entry in _canaries(service) if not _is_baseline(entry)]
    found = [entry for entry in _canaries(service) if _is_baseline(entry)]
    if found and _uri(found[0], service) == uri:
        return service
    model = {**service["spec"]["predictor"]["model"], "storageUri": uri}
    predictor = {"name": _BASELINE, "minReplicas": 1, "model": model}
    return _with(service, [*others, {"predictor": predictor, "trafficPercent": 0}])


def _replace(service: Object, uri: str, name: str) -> Object:
    """Stable runs another model: the canary's takes its place without a restart.

    What was stable stays as an entry with the share it had, so that no request goes elsewhere and
    the way back is as quick. A stable predictor without a name cannot stay: KServe deletes it.
    """
    stable = service["spec"]["predictor"]
    beside = [entry for entry in _canaries(service) if _is_baseline(entry)]
    entry = next((e for e in _canaries(service) if _key(e, service) == uri), None)
    if entry is None:
        # No pod runs it: the deployment is rolled over, and keeps answering meanwhile.
        set_model(stable, uri)
        return service
    share = 100 - sum(int(each.get("trafficPercent", 0)) for each in (entry, *beside))
    taken = entry["predictor"]
    service["spec"]["predictor"] = {**stable, "name": taken["name"], "model": taken["model"]}
    _with(service, beside)
    if stable.get("name"):
        total = stable.get("minReplicas") or 1
        before = {k: v for k, v in stable.items() if k not in (*_AUTOSCALING, "minReplicas")}
        before["minReplicas"] = _replicas(total, share)
        _with(service, [{"predictor": before, "trafficPercent": share}, *beside])
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
