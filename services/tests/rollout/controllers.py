"""KServe, Knative, the deployment controller and a gateway, as far as a router can see them.

They act on the objects of `ApiServer` with the rules of the real ones (KServe of August 2026), one
hop at every turn, and a turn comes after every `lag + 1` readings. What requests really reach is
kept apart from what is written (`shares`), and is what a test compares with.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from .api_server import ApiServer, Object, Refused

ISVC = "inferenceservices.serving.kserve.io"
KSVC = "services.serving.knative.dev"
REVISION = "revisions.serving.knative.dev"
ROUTE = "httproutes.gateway.networking.k8s.io"
DEPLOYMENT = "deployments.apps"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
MODE = "serving.kserve.io/deploymentMode"


class Cluster:
    """One API server, its controllers, and the state of their data plane."""

    def __init__(self) -> None:
        self.api = ApiServer()
        self.api.on_read = self._moment
        self.api.admission = self._admit
        self.lag = 0
        self.stalled = False
        self.broken: set[str] = set()
        """Models that never become ready."""

        self.writes_weights = True
        """False: KServe 0.20, which creates canaries and gives them no weight."""

        self.refuse_routes: str | None = None
        self.rewrite_weights: dict[str, int] | None = None
        self._readings = 0
        self._pods: dict[str, str] = {}
        """The model that answers behind each deployment."""

        self._knative_routes: dict[str, list[Object]] = {}
        self._gateway: dict[str, Object] = {}

    def close(self) -> None:
        self.api.close()

    # -- what requests reach ----------------------------------------------------------------------

    def shares(self, name: str) -> dict[str, int]:
        """Percent of requests by model; `?` for what no pod answers."""
        with self.api.lock:
            shares: dict[str, int] = {}
            if name in self._knative_routes:
                for entry in self._knative_routes[name]:
                    model = self._revision_model(entry["revisionName"])
                    shares[model] = shares.get(model, 0) + entry["percent"]
            else:
                for service, weight in self._backends(self._gateway.get(name, {})).items():
                    model = self._pods.get(service, "?")
                    shares[model] = shares.get(model, 0) + weight
            return {model: share for model, share in shares.items() if share}

    def mirror(self, name: str) -> tuple[str, Object] | None:
        """The model that gets copies, and the mirror as the gateway has it."""
        with self.api.lock:
            for each in self._gateway[name]["rules"][0].get("filters") or ():
                if each["type"] == "RequestMirror":
                    mirror = each["requestMirror"]
                    return self._pods.get(mirror["backendRef"]["name"], "?"), mirror
            return None

    def _backends(self, spec: Object) -> dict[str, int]:
        rules = spec.get("rules") or [{}]
        refs = rules[0].get("backendRefs") or []
        total = sum(ref.get("weight", 1) for ref in refs) or 1
        return {ref["name"]: round(100 * ref.get("weight", 1) / total) for ref in refs}

    def settle(self, turns: int = 12) -> None:
        """Let the controllers finish."""
        with self.api.lock:
            for _ in range(turns):
                self._turn()

    def _moment(self) -> None:
        self._readings += 1
        if not self.stalled and self._readings % (self.lag + 1) == 0:
            self._turn()

    def _turn(self) -> None:
        # Against the flow, so that one turn carries a change one hop.
        for name in self.api.named(ROUTE):
            self._gateway_takes(name)
        for name in self.api.named(DEPLOYMENT):
            if self.api.get(
                ISVC, self.api.objects[(DEPLOYMENT, name)]["metadata"]["labels"]["isvc"]
            ):
                self._roll_out(name)
            else:
                self.api.remove(DEPLOYMENT, name)
                self._pods.pop(name, None)
        for name in self.api.named(ISVC):
            self._status_of(name)
        for name in self.api.named(KSVC):
            self._knative(name)
        for name in self.api.named(ISVC):
            self._kserve(name)

    # -- KServe -----------------------------------------------------------------------------------

    def _admit(self, resource: str, obj: Object) -> None:
        canaries = obj.get("spec", {}).get("canary") or []
        if resource != ISVC or not canaries:
            return
        if _annotations(obj).get(MODE) != "Standard":
            raise Refused("canary is only supported in Standard deployment mode")
        stable = obj["spec"]["predictor"]
        if "model" not in stable:
            raise Refused("canary requires a stable predictor with a model")
        names = [stable.get("name")]
        for canary in canaries:
            predictor = canary["predictor"]
            if not predictor.get("name") or predictor["name"] in names:
                raise Refused(f"predictor.name {predictor.get('name')!r} is missing or doubled")
            names.append(predictor["name"])
            if {"maxReplicas", "scaleTarget", "autoScaling"} & predictor.keys():
                raise Refused("canary uses fixed replicas")
            if predictor.get("minReplicas", 1) > stable.get("minReplicas", 1):
                raise Refused("canary minReplicas must not exceed stable predictor minReplicas")
        if sum(canary["trafficPercent"] for canary in canaries) > 100:
            raise Refused("sum of canary trafficPercent values must be <= 100")

    def _kserve(self, name: str) -> None:
        service = self.api.objects[(ISVC, name)]
        if _annotations(service).get(MODE) == "Standard":
            self._standard(service)
        else:
            self._serverless(service)

    def _serverless(self, service: Object) -> None:
        name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
        status = _component(service)
        percent, rolled_out = predictor.get("canaryTrafficPercent"), status.get(ROLLED_OUT)
        traffic: list[Object] = [{"latestRevision": True, "percent": 100}]
        if percent is not None and rolled_out:
            traffic = [{"latestRevision": True, "percent": percent}]
            if percent < 100:
                rest = {"latestRevision": False, "percent": 100 - percent}
                traffic.append({"revisionName": rolled_out, "tag": "prev", **rest})
        if _annotations(service).get("serving.kserve.io/enable-tag-routing") == "true":
            traffic[0]["tag"] = "latest"
        annotations = {**_annotations(service), SOURCE: predictor["model"]["storageUri"]}
        template = {"metadata": {"annotations": annotations}}
        wanted = {"spec": {"template": template, "traffic": traffic}}
        found = self.api.get(KSVC, f"{name}-predictor")
        if found is None or found["spec"] != wanted["spec"]:
            self.api.put(KSVC, f"{name}-predictor", wanted)

    def _status_of(self, name: str) -> None:
        service = self.api.objects[(ISVC, name)]
        knative = self.api.get(KSVC, f"{name}-predictor")
        if knative is None or "status" not in knative:
            return
        status, new = copy.deepcopy(service.get("status", {})), knative["status"]
        component = status.setdefault("components", {}).setdefault("predictor", {})
        component["latestCreatedRevision"] = new["latestCreatedRevisionName"]
        newest = new.get("latestReadyRevisionName", "")
        shares: dict[str, int] = {}
        for entry in new.get("traffic", ()):
            shares[entry["revisionName"]] = shares.get(entry["revisionName"], 0) + entry["percent"]
        for entry in new.get("traffic", ()):
            if entry["revisionName"] != newest or not entry.get("latestRevision"):
                continue
            if component.get(ROLLED_OUT) != newest:
                if entry["percent"] == 100:
                    component["previousRolledoutRevision"] = component.get(ROLLED_OUT, "")
                    component[ROLLED_OUT] = newest
            elif newest == component["latestCreatedRevision"] and entry["percent"] < 100:
                if shares[newest] == 100 and component.get("previousRolledoutRevision"):
                    component[ROLLED_OUT] = component["previousRolledoutRevision"]
        component["latestReadyRevision"] = newest
        component["traffic"] = new.get("traffic", [])
        status["observedGeneration"] = new.get("observedGeneration")
        self.api.put_status(ISVC, name, status)

    def _standard(self, service: Object) -> None:
        name, spec = service["metadata"]["name"], service["spec"]
        canaries, ready = spec.get("canary") or [], {}
        wanted = {_backend(name, spec["predictor"]): spec["predictor"]}
        for canary in canaries:
            predictor = {**spec["predictor"], **canary["predictor"]}
            if "minReplicas" not in canary["predictor"]:
                least = spec["predictor"].get("minReplicas", 1)
                predictor["minReplicas"] = math.ceil(least * canary["trafficPercent"] / 100)
            wanted[_backend(name, predictor)] = predictor
        for deployment, predictor in wanted.items():
            self._deploy(deployment, name, predictor)
        for canary in canaries:
            found = self.api.objects[(DEPLOYMENT, _backend(name, canary["predictor"]))]
            available = found.get("status", {}).get("availableReplicas", 0)
            ready[canary["predictor"]["name"]] = available > 0
        for deployment in self.api.named(DEPLOYMENT):
            owner = self.api.objects[(DEPLOYMENT, deployment)]["metadata"]["labels"]["isvc"]
            if owner == name and deployment not in wanted:
                self.api.remove(DEPLOYMENT, deployment)
                self._pods.pop(deployment, None)
        self._routes(name, spec, ready)
        found = self.api.objects[(DEPLOYMENT, _backend(name, spec["predictor"]))]
        answers = found.get("status", {}).get("availableReplicas", 0) > 0
        statuses = [
            {"name": c["predictor"]["name"], "trafficPercent": c["trafficPercent"]}
            for c in canaries
        ]
        for status in statuses:
            status["ready"] = ready[status["name"]]
        conditions = [{"type": "Ready", "status": "True" if answers else "False"}]
        self.api.put_status(ISVC, name, {"conditions": conditions, "canaryStatuses": statuses})

    def _deploy(self, name: str, owner: str, predictor: Object) -> None:
        annotations = {SOURCE: predictor["model"]["storageUri"]}
        replicas = predictor.get("minReplicas", 1)
        spec = {"replicas": replicas, "template": {"metadata": {"annotations": annotations}}}
        found = self.api.get(DEPLOYMENT, name)
        if found is None or found["spec"] != spec:
            self.api.put(DEPLOYMENT, name, {"metadata": {"labels": {"isvc": owner}}, "spec": spec})

    def _routes(self, name: str, spec: Object, ready: dict[str, bool]) -> None:
        stable = {"name": _backend(name, spec["predictor"]), "port": 80}
        backends: list[Object] = [stable]
        canaries = [c for c in spec.get("canary") or () if ready[c["predictor"]["name"]]]
        if spec.get("canary") and self.writes_weights:
            stable["weight"] = 100 - sum(canary["trafficPercent"] for canary in canaries)
            backends += [
                {
                    "name": _backend(name, canary["predictor"]),
                    "port": 80,
                    "weight": canary["trafficPercent"],
                }
                for canary in canaries
            ]
        for route in (name, f"{name}-predictor"):
            parents = [{"name": "kserve-ingress-gateway"}]
            wanted = {"spec": {"parentRefs": parents, "rules": [{"backendRefs": backends}]}}
            found = self.api.get(ROUTE, route)
            if found is None or found["spec"] != wanted["spec"]:
                self.api.put(ROUTE, route, wanted)

    # -- Knative ----------------------------------------------------------------------------------

    def _knative(self, name: str) -> None:
        service = self.api.objects[(KSVC, name)]
        status = copy.deepcopy(service.get("status", {}))
        template = service["spec"]["template"]
        created = status.get("latestCreatedRevisionName")
        last = self.api.get(REVISION, created) if created else None
        if last is None or _annotations(last) != template["metadata"]["annotations"]:
            number = len([r for r in self.api.named(REVISION) if r.startswith(name)]) + 1
            created = f"{name}-{number:05d}"
            meta = {"annotations": copy.deepcopy(template["metadata"]["annotations"])}
            self.api.put(REVISION, created, {"metadata": meta, "spec": {}})
            status["latestCreatedRevisionName"] = created
        elif self._revision_model(str(created)) in self.broken:
            condition = {"type": "Ready", "status": "False"}
            self.api.put_status(REVISION, str(created), {"conditions": [condition]})
        else:
            condition = {"type": "Ready", "status": "True"}
            self.api.put_status(REVISION, str(created), {"conditions": [condition]})
            status["latestReadyRevisionName"] = created
        # The route follows one turn after the generation was seen.
        if status.get("observedGeneration") == service["metadata"]["generation"]:
            status["traffic"] = self._traffic(service, status)
            self._knative_routes[name.removesuffix("-predictor")] = status["traffic"]
        status["observedGeneration"] = service["metadata"]["generation"]
        self.api.put_status(KSVC, name, status)

    def _traffic(self, service: Object, status: Object) -> list[Object]:
        traffic = []
        for entry in service["spec"]["traffic"]:
            named = entry.get("revisionName") or status.get("latestReadyRevisionName")
            if named:
                traffic.append({**entry, "revisionName": named})
        return traffic

    def _revision_model(self, revision: str) -> str:
        return str(_annotations(self.api.objects[(REVISION, revision)])[SOURCE])

    # -- deployments and the gateway --------------------------------------------------------------

    def _roll_out(self, name: str) -> None:
        found = self.api.objects[(DEPLOYMENT, name)]
        model = _annotations(found["spec"]["template"])[SOURCE]
        status, replicas = dict(found.get("status", {})), found["spec"]["replicas"]
        generation = found["metadata"]["generation"]
        if self._pods.get(name) == model:
            status |= dict.fromkeys(COUNTS, replicas)
        elif status.get("observedGeneration") != generation or model in self.broken:
            # The new pod is there beside the old ones, and does not answer (yet).
            old = replicas if name in self._pods else 0
            status |= {"replicas": old + 1, "updatedReplicas": 1, "availableReplicas": old}
        else:
            self._pods[name] = model
            status |= dict.fromkeys(COUNTS, replicas)
        status["observedGeneration"] = generation
        self.api.put_status(DEPLOYMENT, name, status)

    def _gateway_takes(self, name: str) -> None:
        route = self.api.objects[(ROUTE, name)]
        if self.rewrite_weights:
            self._rewrite(name, route, self.rewrite_weights)
            route = self.api.objects[(ROUTE, name)]
        missing = [b for b in self._backends(route["spec"]) if not self._exists(b)]
        accepted = self.refuse_routes is None
        if accepted:
            self._gateway[name] = copy.deepcopy(route["spec"])
        seen = {"observedGeneration": route["metadata"]["generation"]}
        conditions: list[Any] = [
            {"type": "Accepted", "status": str(accepted), **seen},
            {"type": "ResolvedRefs", "status": str(not missing), **seen},
        ]
        conditions[0] |= {"reason": "NotAllowed", "message": self.refuse_routes or ""}
        conditions[1] |= {"reason": "BackendNotFound", "message": ", ".join(missing)}
        parents = [{"conditions": conditions} for _ in route["spec"].get("parentRefs", ())]
        self.api.put_status(ROUTE, name, {"parents": parents})

    def _rewrite(self, name: str, route: Object, weights: dict[str, int]) -> None:
        wanted = copy.deepcopy(route)
        for backend in wanted["spec"]["rules"][0]["backendRefs"]:
            backend["weight"] = weights.get(backend["name"], backend.get("weight", 1))
        if wanted["spec"] != route["spec"]:
            self.api.put(ROUTE, name, wanted)

    def _exists(self, service: str) -> bool:
        return self.api.get(DEPLOYMENT, service) is not None


ROLLED_OUT = "latestRolledoutRevision"
COUNTS = ("replicas", "updatedReplicas", "availableReplicas")


def _annotations(obj: Object) -> dict[str, str]:
    found: dict[str, str] = obj.get("metadata", {}).get("annotations") or {}
    return found


def _component(service: Object) -> Object:
    found: Object = service.get("status", {}).get("components", {}).get("predictor", {})
    return found


def _backend(service: str, predictor: Object) -> str:
    name = predictor.get("name")
    return f"{service}-{name}-predictor" if name else f"{service}-predictor"
