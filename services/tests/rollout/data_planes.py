"""Each data plane as the contract suite sees it: routers of it, and what requests really reach."""

from __future__ import annotations

import copy
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from coalmine.arms import Arm
from coalmine.gateway import RoutePlan, write_routes
from coalmine.rollout import DeployedModel
from coalmine.rollout.routers import (
    ClusterAccess,
    ClusterDataPlane,
    HttpRoute,
    KServeServerless,
    KServeStandard,
    Kubernetes,
    ModelUri,
)

from .api_server import NAMESPACE, TOKEN, Object
from .controllers import ISVC, MODE, ROUTE, Cluster

if TYPE_CHECKING:
    from ..gateway.conftest import Process, RunningGateway

NAME = "m"
TEMPLATE = "s3://models/{name}/{version}"


def model(version: str) -> DeployedModel:
    return DeployedModel(version, Path("/models") / version, f"sha256:{version * 12}")


def uri(version: str) -> str:
    return f"s3://models/{NAME}/{version}"


STABLE, CANARY = model("3"), model("4")


class DataPlane(Protocol):
    """One data plane with version 3 on stable and version 4 on the canary, both answering."""

    def router(self, *, timeout: float = 10.0) -> Any:
        """A router as a new process has it; an async context manager."""

    async def reached(self) -> dict[Arm, int]:
        """Percent of requests by the arm that really answers them."""

    def tamper(self, weights: Mapping[Arm, int]) -> None:
        """Somebody who is no controller sets weights."""

    def stalled(self) -> Any:
        """A context in which the data plane takes nothing up."""

    def break_canary(self) -> None:
        """The canary's model does not answer any more."""


class Envoy:
    """A real Envoy in front of real servers."""

    def __init__(self, gateway: RunningGateway, upstreams: dict[Arm, Process]) -> None:
        self._gateway = gateway
        self._upstreams = upstreams
        self._foreign = 0

    def router(self, *, timeout: float = 10.0) -> Any:
        return self._gateway.control(timeout=timeout)

    async def reached(self) -> dict[Arm, int]:
        """By 200 requests; shares that fit the plan within five standard errors are the plan's."""
        async with httpx.AsyncClient(base_url=self._gateway.url, trust_env=False) as client:
            answers = [(await client.post("/v1/x")).json() for _ in range(200)]
        counted = Counter(Arm(answer["arm"]) for answer in answers)
        async with self._gateway.control() as control:
            plan = await control.applied()
        assert plan is not None
        for arm, weight in plan.weights.items():
            error = (weight * (100 - weight) / 200) ** 0.5
            assert abs(counted[arm] / 2 - weight) <= 5 * error, (arm, weight, counted)
        return {arm: weight for arm, weight in plan.weights.items() if weight}

    def tamper(self, weights: Mapping[Arm, int]) -> None:
        self._foreign += 1
        plan = RoutePlan(f"foreign-{self._foreign}", weights)
        write_routes(self._gateway.directory, plan, self._gateway.routing)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        pid = self._gateway.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def break_canary(self) -> None:
        self._upstreams[Arm.CANARY].kill()


class OnCluster:
    """A data plane of an in-process cluster."""

    make: type[ClusterDataPlane]

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._apis: list[Kubernetes] = []
        self.create()
        self.cluster.settle()

    def create(self) -> None:
        """What a person, or the chart, creates before."""
        raise NotImplementedError

    def deploy(self) -> None:
        """Version 3 on stable, version 4 on the canary."""
        host = self.router()
        for arm, each in ((Arm.STABLE, STABLE), (Arm.CANARY, CANARY)):
            host.deploy(arm, each)
            self.cluster.settle()

    def router(self, *, timeout: float = 10.0, **options: Any) -> ClusterDataPlane:
        access = ClusterAccess(server=self.cluster.api.url, namespace=NAMESPACE, token=TOKEN)
        api = Kubernetes(access)
        self._apis.append(api)
        uris = ModelUri(TEMPLATE, name=NAME)
        return self.make(api, name=NAME, model_uri=uris, timeout=timeout, poll=0.01, **options)

    def close(self) -> None:
        for api in self._apis:
            api.close()
        self.cluster.close()

    async def reached(self) -> dict[Arm, int]:
        arms = {uri("3"): Arm.STABLE, uri("4"): Arm.CANARY}
        return {arms[m]: share for m, share in self.cluster.shares(NAME).items()}

    @contextmanager
    def stalled(self) -> Iterator[None]:
        self.cluster.stalled = True
        try:
            yield
        finally:
            self.cluster.stalled = False

    def break_canary(self) -> None:
        """Its pods crash and do not come back."""
        self.cluster.broken.add(uri("4"))

    def edit(self, resource: str, name: str, change: Any) -> None:
        """As with `kubectl edit`."""
        with self.cluster.api.lock:
            found = copy.deepcopy(self.cluster.api.objects[(resource, name)])
            change(found)
            self.cluster.api.put(resource, name, found)

    def tamper(self, weights: Mapping[Arm, int]) -> None:
        raise NotImplementedError


def inference_service(service: str, mode: str | None = None, **predictor: Any) -> Object:
    served = {"modelFormat": {"name": "onnx"}, "runtime": "coalmine", "storageUri": uri("0")}
    annotations = {} if mode is None else {MODE: mode}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": service, "annotations": annotations},
        "spec": {"predictor": {"model": served, **predictor}},
    }


class Serverless(OnCluster):
    make = KServeServerless

    def create(self) -> None:
        self.cluster.api.put(ISVC, NAME, inference_service(NAME))

    def tamper(self, weights: Mapping[Arm, int]) -> None:
        def change(service: Object) -> None:
            service["spec"]["predictor"]["canaryTrafficPercent"] = weights.get(Arm.CANARY, 0)

        self.edit(ISVC, NAME, change)


class Standard(OnCluster):
    make = KServeStandard

    def create(self) -> None:
        service = inference_service(NAME, "Standard", name="first", minReplicas=2)
        self.cluster.api.put(ISVC, NAME, service)

    def tamper(self, weights: Mapping[Arm, int]) -> None:
        def change(service: Object) -> None:
            service["spec"]["canary"][0]["trafficPercent"] = weights.get(Arm.CANARY, 0)

        self.edit(ISVC, NAME, change)


class OwnRoute(OnCluster):
    make = HttpRoute

    def create(self) -> None:
        service = inference_service(f"{NAME}-stable", "Standard")
        self.cluster.api.put(ISVC, f"{NAME}-stable", service)
        rule = {"backendRefs": [{"name": f"{NAME}-stable-predictor", "port": 80}]}
        spec = {"parentRefs": [{"name": "public"}], "hostnames": ["m.example"], "rules": [rule]}
        self.cluster.api.put(ROUTE, NAME, {"spec": spec})

    def tamper(self, weights: Mapping[Arm, int]) -> None:
        def change(route: Object) -> None:
            route["spec"]["rules"][0]["backendRefs"] = [
                {"name": f"{NAME}-{arm}-predictor", "port": 80, "weight": weight}
                for arm, weight in weights.items()
            ]

        self.edit(ROUTE, NAME, change)
