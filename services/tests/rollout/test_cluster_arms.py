"""The models on the arms of a cluster: deployed, replaced, given up; and what is refused."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied
from coalmine.rollout.routers import ClusterRefused, ModelUri

from .api_server import Fault, Object
from .cluster_cases import ALL, on, plan
from .controllers import ISVC
from .data_planes import CANARY, NAME, STABLE, OnCluster, Serverless, Standard, model, uri


@on(*ALL)
async def test_deploying_is_repeated_after_a_death_in_between(made: OnCluster) -> None:
    host = made.router()
    await host.apply(plan(0))
    made.cluster.api.faults.append(Fault("PUT", "configmaps", "cut", times=6))
    with pytest.raises(RouteNotApplied):
        host.deploy(Arm.CANARY, model("5"))
    assert host.current()[Arm.CANARY] == CANARY
    host.deploy(Arm.CANARY, model("5"))
    assert made.router().current() == {Arm.STABLE: STABLE, Arm.CANARY: model("5")}
    made.cluster.settle()
    assert await host.ready(Arm.CANARY, "5")
    assert await made.reached() == {Arm.STABLE: 100}


@on(*ALL)
async def test_a_candidate_that_never_comes_up_gets_no_request(made: OnCluster) -> None:
    made.cluster.broken.add(uri("5"))
    router = made.router(timeout=0.4)
    await router.apply(plan(0))
    router.deploy(Arm.CANARY, model("5"))
    made.cluster.settle()
    assert await made.reached() == {Arm.STABLE: 100}
    assert not await router.ready(Arm.CANARY, "5")
    with pytest.raises(RouteNotApplied):
        await router.apply(plan(10))
    assert await router.applied() != plan(10)
    made.cluster.settle()
    assert await made.reached() == {Arm.STABLE: 100}
    await router.apply(plan(0))
    router.retire(Arm.CANARY)
    made.cluster.settle()
    assert await made.reached() == {Arm.STABLE: 100}


@on(*ALL)
async def test_a_newer_model_on_stable_is_rolled_over_without_an_outage(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(0))
    router.retire(Arm.CANARY)
    with made.stalled():
        router.deploy(Arm.STABLE, model("7"))
        assert not await router.ready(Arm.STABLE, "7")
    seen = set()
    for _ in range(30):
        made.cluster.settle(1)
        seen |= set(made.cluster.shares(NAME))
    assert seen <= {uri("3"), uri("7")}
    assert await router.ready(Arm.STABLE, "7")
    await router.apply(plan(0))
    assert made.cluster.shares(NAME) == {uri("7"): 100}


@on(Serverless, Standard)
async def test_what_kserve_cannot_do_is_refused(made: OnCluster) -> None:
    router = made.router()
    with pytest.raises(ClusterRefused, match="cannot mirror"):
        await router.apply(plan(0, mirror=(Arm.SHADOW, 1.0)))
    with pytest.raises(ClusterRefused, match="no arm shadow"):
        router.deploy(Arm.SHADOW, CANARY)
    for section in ("transformer", "explainer"):
        made.edit(ISVC, NAME, lambda service, s=section: service["spec"].update({s: {"a": 1}}))
        with pytest.raises(ClusterRefused, match=f"spec.{section}: .*versions mix"):
            await router.apply(plan(10))
        made.edit(ISVC, NAME, lambda service, s=section: service["spec"].pop(s))


@on(Serverless, Standard)
async def test_a_bare_container_is_refused(made: OnCluster) -> None:
    def bare(service: Object) -> None:
        service["spec"]["predictor"] = {"containers": [{"image": "x"}]}

    made.cluster.stalled = True
    made.edit(ISVC, NAME, bare)
    with pytest.raises(ClusterRefused, match="ClusterServingRuntime"):
        await made.router().apply(plan(10))


def test_a_uri_is_made_from_the_version_or_the_digest() -> None:
    uris = ModelUri("pvc://models/{name}/{version}-{digest}", name="m")
    assert uris.of(STABLE) == "pvc://models/m/3-333333333333"
