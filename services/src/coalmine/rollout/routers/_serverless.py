"""KServe on Knative: the canary is the newest revision, weighted by `canaryTrafficPercent`.

KServe gives the newest ready revision the percent, and the rest to the revision that had 100 % last
(`latestRolledoutRevision`). So the percent alone says nothing about models: a candidate that does
not come up leaves both shares on the old revision. What is believed is the chain from the
InferenceService's spec to the Knative service's (same percent, same model), to its status
(`observedGeneration`), to the revisions in it, each of which names its model for ever.
"""

from __future__ import annotations

from typing import Any

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied, RoutePlan
from coalmine.rollout._protocols import DeployedModel
from coalmine.rollout.routers._cluster import ClusterDataPlane, Observed, Uris
from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._kserve import (
    SOURCE_URI,
    check_collocated,
    model_of,
    set_model,
)
from coalmine.rollout.routers._kubernetes import (
    INFERENCE_SERVICE,
    KNATIVE_REVISION,
    KNATIVE_SERVICE,
    Object,
)

__all__ = ["KServeServerless"]

_PERCENT = "canaryTrafficPercent"


class KServeServerless(ClusterDataPlane):
    """One InferenceService in deployment mode `Knative` (`Serverless`)."""

    # -- router -----------------------------------------------------------------------------------

    def _ask(self, plan: RoutePlan, uris: Uris) -> None:
        def change(service: Object) -> Object:
            uri, percent = self._target(service, plan, uris)
            return _write(service, uri, percent)

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _asked(self, plan: RoutePlan, uris: Uris) -> bool:
        service = self._service()
        # A rolled-back revision is replaced step by step: what is right is then known anew.
        return _owned(service) == self._target(service, plan, uris)

    def _target(self, service: Object, plan: RoutePlan, uris: Uris) -> tuple[str, int | None]:
        """The model and the percent that make KServe route by the plan."""
        newest, percent = _owned(service)
        weight = plan.weights.get(Arm.CANARY, 0)
        stable, canary = uris.get(Arm.STABLE), uris.get(Arm.CANARY)
        if weight and newest != canary:
            raise RouteNotApplied(
                f"inferenceservices {self._name}: its model is {newest}, not the canary's {canary}"
            )
        if weight and self._newest(service) != canary:
            # The share would go to the revision before, whatever that is.
            raise RouteNotApplied(f"inferenceservices {self._name}: {self._unready(service)}")
        if weight == 100 or (weight and stable == canary):
            return newest, 100
        rest = self._rest(service)
        if weight:
            if rest != stable:
                raise RouteNotApplied(
                    f"inferenceservices {self._name}: beside the canary, KServe would route to "
                    f"{rest}, not to stable's {stable}"
                )
            return newest, weight
        assert stable is not None
        if newest == stable:
            # Whatever the share, if the rest is the same model; else all of it to the newest.
            return (newest, percent) if rest in (None, stable) else (newest, None)
        if rest == stable:
            return newest, 0
        return stable, None

    def _rest(self, service: Object) -> str | None:
        """The model that gets what the percent leaves; None before the first was rolled out."""
        status = _status(service)
        rolled_out = status.get("latestRolledoutRevision")
        if not rolled_out:
            return None
        newest, _ = _owned(service)
        if self._model(rolled_out) == newest and rolled_out == status.get("latestReadyRevision"):
            # It had 100 %, and is taken back: KServe then remembers the one before.
            previous = status.get("previousRolledoutRevision")
            if previous and self._model(previous) != newest:
                return self._model(previous)
        return self._model(rolled_out)

    def _observe(self, uris: Uris) -> Observed:
        service = self._service()
        status = _status(service)
        shares: dict[str, int] = {}
        for entry in status.get("traffic") or ():
            if percent := entry.get("percent"):
                model = self._model(entry["revisionName"]) or entry["revisionName"]
                shares[model] = shares.get(model, 0) + int(percent)
        return Observed(shares=shares, stale=self._stale(service), unready=self._unready(service))

    def _stale(self, service: Object) -> str | None:
        """Why the status is not of the spec as it stands."""
        newest, percent = _owned(service)
        knative = self._api.get(KNATIVE_SERVICE, f"{self._name}-predictor")
        if knative is None:
            return f"there is no Knative service {self._name}-predictor yet"
        template = knative["spec"]["template"].get("metadata", {}).get("annotations", {})
        if template.get(SOURCE_URI) != newest:
            return "KServe did not take the model to Knative yet"
        asked = 100
        if percent is not None and _status(service).get("latestRolledoutRevision"):
            asked = percent
        if _latest(knative["spec"].get("traffic")).get("percent") != asked:
            return "KServe did not take the percent to Knative yet"
        generation = knative["metadata"]["generation"]
        # KServe copies from Knative's status what Knative has observed, and the routes with it.
        if service.get("status", {}).get("observedGeneration") != generation:
            return "Knative did not see the change yet, or KServe did not read Knative's state"
        if knative.get("status", {}).get("traffic") != _status(service).get("traffic"):
            return "KServe did not read Knative's routes yet"
        if (_latest(_status(service).get("traffic")).get("percent") or 0) != asked:
            return "Knative's route did not follow yet"
        return None

    def _unready(self, service: Object) -> str | None:
        status = _status(service)
        created, ready = status.get("latestCreatedRevision"), status.get("latestReadyRevision")
        if created != ready:
            return f"revision {created} is not ready; {ready} answers in its place"
        named = _latest(status.get("traffic")).get("revisionName")
        if named != ready:
            return f"the canary's share goes to revision {named}, not to {ready}"
        return None

    # -- arm host ---------------------------------------------------------------------------------

    def _deploy(self, arm: Arm, model: DeployedModel, uris: Uris) -> None:
        uri = self._model_uri.of(model)

        def change(service: Object) -> Object:
            newest, _ = _owned(service)
            if newest == uri:
                return service
            if arm is Arm.CANARY:
                self._check_canary(service, uris)
                # In one write: a new model without a percent would get all requests.
                return _write(service, uri, 0)
            if uri in self._rolled_out(service):
                return service  # The way back: it runs still, and the percent routes to it.
            return _write(service, uri, None)

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _check_canary(self, service: Object, uris: Uris) -> None:
        where = f"inferenceservices {self._name}"
        if service["spec"]["predictor"].get("minReplicas") == 0:
            raise ClusterRefused(
                f"{where}: spec.predictor.minReplicas: is 0, so that a canary's cold starts would "
                "be judged; set at least 1"
            )
        rolled_out = _status(service).get("latestRolledoutRevision")
        if not rolled_out or self._model(rolled_out) != uris.get(Arm.STABLE):
            raise RouteNotApplied(
                f"{where}: its rolled-out revision {rolled_out} is not stable's model, so a canary "
                "beside it would not be one; wait until stable has all requests"
            )

    def _retire(self, arm: Arm, uris: Uris) -> None:
        stable = uris.get(Arm.STABLE)

        def change(service: Object) -> Object:
            newest, percent = _owned(service)
            if stable is None or newest == stable:
                return service
            if percent != 0:
                raise RouteNotApplied(
                    f"inferenceservices {self._name}: the canary still has {percent} %"
                )
            # As long as the spec has the model that was rolled back, whoever removes the percent
            # promotes it.
            return _write(service, stable, 0)

        self._update(INFERENCE_SERVICE, self._name, change, owned=_owned)

    def _holds(self, arm: Arm, uris: Uris) -> bool:
        service = self._service()
        return uris[arm] == _owned(service)[0] or uris[arm] in self._rolled_out(service)

    def _ready(self, arm: Arm, uris: Uris) -> bool:
        service = self._service()
        if arm is Arm.CANARY:
            status = _status(service)
            ready = status.get("latestReadyRevision")
            newest, _ = _owned(service)
            if not ready or status.get("latestCreatedRevision") != ready:
                return False
            return newest == uris[arm] == self._model(ready)
        return uris[arm] in self._rolled_out(service) or uris[arm] == self._newest(service)

    # -- readings ---------------------------------------------------------------------------------

    def _service(self) -> Object:
        service = self._api.get(INFERENCE_SERVICE, self._name)
        if service is None:
            raise ClusterRefused(
                f"inferenceservices: there is no {self._name} in namespace {self._api.namespace}"
            )
        _owned(service)
        return service

    def _newest(self, service: Object) -> str | None:
        ready = _status(service).get("latestReadyRevision")
        return None if not ready else self._model(ready)

    def _rolled_out(self, service: Object) -> set[str]:
        """The models of the ready revisions that had all requests, now or before."""
        status = _status(service)
        names = (status.get("latestRolledoutRevision"), status.get("previousRolledoutRevision"))
        return {model for name in names if name and (model := self._model(name, ready=True))}

    def _model(self, revision: str, *, ready: bool = False) -> str | None:
        """The model of a revision; None if it is gone, or (with `ready`) not ready."""
        found = self._api.get(KNATIVE_REVISION, revision)
        if found is None:
            return None
        conditions = found.get("status", {}).get("conditions") or ()
        is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        if ready and not is_ready:
            return None
        model = (found["metadata"].get("annotations") or {}).get(SOURCE_URI)
        return None if model is None else str(model)


def _owned(service: Object) -> tuple[str, int | None]:
    check_collocated(service)
    predictor = service["spec"]["predictor"]
    return model_of(predictor, service), predictor.get(_PERCENT)


def _write(service: Object, uri: str, percent: int | None) -> Object:
    predictor = service["spec"]["predictor"]
    set_model(predictor, uri)
    if percent is None:
        predictor.pop(_PERCENT, None)
    else:
        predictor[_PERCENT] = percent
    return service


def _status(service: Object) -> dict[str, Any]:
    components = service.get("status", {}).get("components") or {}
    status: dict[str, Any] = components.get("predictor") or {}
    return status


def _latest(traffic: list[Any] | None) -> dict[str, Any]:
    """The entry that follows the newest revision."""
    return next((entry for entry in traffic or () if entry.get("latestRevision")), {})
