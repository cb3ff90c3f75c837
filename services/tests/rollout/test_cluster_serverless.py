"""The traps of KServe on Knative, one by one."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied
from coalmine.rollout.routers import ClusterRefused

from .api_server import Object
from .cluster_cases import on, plan, predictor
from .controllers import ISVC, KSVC, REVISION
from .data_planes import NAME, OnCluster, Serverless, model, uri


@on(Serverless)
async def test_a_percent_on_the_old_revision_is_not_believed(made: OnCluster) -> None:
    """Of a failed canary, KServe shows the percent, and both entries name the old revision."""
    made.cluster.broken.add(uri("5"))
    router = made.router(timeout=0.5)
    await router.apply(plan(0))
    router.retire(Arm.CANARY)
    made.cluster.settle()
    router.deploy(Arm.CANARY, model("5"))
    made.tamper({Arm.CANARY: 10})
    made.cluster.settle()
    status = made.cluster.api.objects[(ISVC, NAME)]["status"]["components"]["predictor"]
    assert [entry["percent"] for entry in status["traffic"]] == [10, 90]
    found = await router.applied()
    assert found is not None
    assert dict(found.weights) == {Arm.STABLE: 100}
    with pytest.raises(RouteNotApplied, match=r"revision m-predictor-\d+ is not ready"):
        await router.apply(plan(10))


@on(Serverless)
async def test_a_candidate_that_fails_gives_no_share_to_the_one_before(made: OnCluster) -> None:
    made.cluster.broken.add(uri("5"))
    router = made.router(timeout=0.5)
    await router.apply(plan(0))
    router.deploy(Arm.CANARY, model("5"))
    made.cluster.settle()
    with pytest.raises(RouteNotApplied, match=r"revision m-predictor-\d+ is not ready"):
        await router.apply(plan(10))
    made.cluster.settle()
    assert made.cluster.shares(NAME) == {uri("3"): 100}, "version 4 was ready last"


@on(Serverless)
async def test_a_newer_revision_of_the_same_model_that_fails_is_no_step(made: OnCluster) -> None:
    """Latest created is not latest ready: somebody changed the template under the rollout."""
    router = made.router(timeout=0.5)
    await router.apply(plan(10))
    made.cluster.broken.add(uri("4"))
    made.cluster.api.annotate(ISVC, NAME, "somebody/note", "1")
    made.cluster.settle()
    assert len(made.cluster.api.named(REVISION)) > 2, "an annotation makes a revision"
    with pytest.raises(RouteNotApplied, match="is not ready"):
        await router.apply(plan(10))
    await router.apply(plan(0))


@on(Serverless)
async def test_tag_routing_does_not_disturb(made: OnCluster) -> None:
    made.cluster.api.annotate(ISVC, NAME, "serving.kserve.io/enable-tag-routing", "true")
    made.cluster.settle()
    router = made.router()
    for canary in (10, 100, 0):
        await router.apply(plan(canary))
        assert await router.applied() == plan(canary)


@on(Serverless)
async def test_after_the_way_back_nobody_can_promote_by_accident(made: OnCluster) -> None:
    router = made.router()
    for canary in (10, 100, 0):
        await router.apply(plan(canary))
    router.retire(Arm.CANARY)
    made.cluster.settle()
    assert predictor(made)["model"]["storageUri"] == uri("3")
    assert predictor(made)["canaryTrafficPercent"] == 0
    made.edit(ISVC, NAME, lambda s: s["spec"]["predictor"].pop("canaryTrafficPercent"))
    made.cluster.settle()
    assert made.cluster.shares(NAME) == {uri("3"): 100}
    assert await router.applied() == plan(0)


@on(Serverless)
async def test_model_and_percent_are_one_write(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(0))
    router.retire(Arm.CANARY)
    made.cluster.settle()
    made.cluster.api.writes.clear()
    router.deploy(Arm.CANARY, model("5"))
    assert [resource for _, resource, _ in made.cluster.api.writes] == [ISVC, "configmaps"]
    for _ in range(20):
        made.cluster.settle(1)
        assert made.cluster.shares(NAME) == {uri("3"): 100}


@on(Serverless)
async def test_a_canary_that_scales_to_zero_is_refused(made: OnCluster) -> None:
    made.edit(ISVC, NAME, lambda s: s["spec"]["predictor"].update(minReplicas=0))
    with pytest.raises(ClusterRefused, match="minReplicas: is 0"):
        made.router().deploy(Arm.CANARY, model("5"))


@on(Serverless)
async def test_a_canary_beside_anything_but_stable_is_refused(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(100))
    with pytest.raises(RouteNotApplied, match="is not stable's model"):
        router.deploy(Arm.CANARY, model("5"))


@on(Serverless)
async def test_a_model_put_there_by_hand_is_found_and_taken_back(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(0))
    router.retire(Arm.CANARY)
    made.cluster.settle()

    def by_hand(service: Object) -> None:
        service["spec"]["predictor"]["model"]["storageUri"] = uri("9")
        service["spec"]["predictor"].pop("canaryTrafficPercent", None)

    made.edit(ISVC, NAME, by_hand)
    made.cluster.settle()
    assert made.cluster.shares(NAME) == {uri("9"): 100}
    assert await router.applied() is None
    await router.apply(plan(0))
    assert made.cluster.shares(NAME) == {uri("3"): 100}


@on(Serverless)
async def test_a_service_without_the_knative_one_is_waited_for(made: OnCluster) -> None:
    made.cluster.stalled = True
    made.cluster.api.remove(KSVC, f"{NAME}-predictor")
    with pytest.raises(RouteNotApplied, match="there is no Knative service m-predictor"):
        await made.router(timeout=0.2).apply(plan(10))
