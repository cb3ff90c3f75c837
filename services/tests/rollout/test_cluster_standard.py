"""The traps of KServe's own canaries, one by one."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied
from coalmine.rollout.routers import ClusterRefused

from .api_server import Object
from .cluster_cases import on, plan, predictor
from .controllers import DEPLOYMENT, ISVC, MODE, ROUTE
from .data_planes import CANARY, NAME, STABLE, OnCluster, Standard, model, uri


@on(Standard)
@pytest.mark.parametrize("mode", ["RawDeployment", "Knative", None])
async def test_the_annotation_must_read_standard(made: OnCluster, mode: str | None) -> None:
    def change(service: Object) -> None:
        service["metadata"]["annotations"] = {} if mode is None else {MODE: mode}

    made.cluster.stalled = True
    made.edit(ISVC, NAME, change)
    with pytest.raises(ClusterRefused, match=f"{MODE}: must be Standard"):
        await made.router().apply(plan(10))


@on(Standard)
async def test_kserve_020_is_told_apart(made: OnCluster) -> None:
    made.cluster.writes_weights = False
    with pytest.raises(RouteNotApplied, match=r"before 0\.21 writes no weights"):
        await made.router(timeout=0.5).apply(plan(10))
    found = await made.router().applied()
    assert found is None


@on(Standard)
async def test_without_the_gateway_api_it_says_so(made: OnCluster) -> None:
    made.cluster.stalled = True
    made.cluster.api.remove(ROUTE, NAME)
    with pytest.raises(RouteNotApplied, match="enableGatewayApi"):
        await made.router(timeout=0.2).apply(plan(10))


@on(Standard)
async def test_the_canary_has_a_pod_at_zero_percent_and_its_share_later(made: OnCluster) -> None:
    router = made.router()

    def pods() -> int:
        entry = made.cluster.api.objects[(ISVC, NAME)]["spec"]["canary"][0]
        name = f"{NAME}-{entry['predictor']['name']}-predictor"
        replicas: int = made.cluster.api.objects[(DEPLOYMENT, name)]["spec"]["replicas"]
        return replicas

    assert pods() == 1
    await router.apply(plan(50))
    assert pods() == 1
    await router.apply(plan(100))
    assert pods() == 2


@on(Standard)
async def test_promotion_restarts_nothing_and_keeps_the_old_one_warm(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(100))
    before = set(made.cluster.api.named(DEPLOYMENT))
    router.deploy(Arm.STABLE, CANARY)
    made.cluster.settle()
    assert set(made.cluster.api.named(DEPLOYMENT)) == before
    assert predictor(made)["model"]["storageUri"] == uri("4")
    assert made.cluster.shares(NAME) == {uri("4"): 100}
    # The way back is still open, and as quick.
    router.deploy(Arm.STABLE, STABLE)
    assert made.cluster.shares(NAME) == {uri("4"): 100}
    await router.apply(plan(0))
    assert made.cluster.shares(NAME) == {uri("3"): 100}
    router.retire(Arm.CANARY)
    made.cluster.settle()
    assert "canary" not in made.cluster.api.objects[(ISVC, NAME)]["spec"]
    assert made.cluster.shares(NAME) == {uri("3"): 100}


@on(Standard)
async def test_autoscaling_of_stable_is_not_copied_to_a_canary(made: OnCluster) -> None:
    scaling = {"maxReplicas": 5, "scaleTarget": 80}
    made.edit(ISVC, NAME, lambda service: service["spec"]["predictor"].update(scaling))
    router = made.router()
    await router.apply(plan(100))
    router.deploy(Arm.STABLE, CANARY)
    assert predictor(made)["maxReplicas"] == 5
    entry = made.cluster.api.objects[(ISVC, NAME)]["spec"]["canary"][0]
    assert not scaling.keys() & entry["predictor"].keys()


@on(Standard)
async def test_each_version_has_a_predictor_of_its_own_name(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(0))
    names = set()
    for version in ("4", "5", "Odd_Version/7"):
        router.deploy(Arm.CANARY, model(version))
        made.cluster.settle()
        assert await router.ready(Arm.CANARY, version)
        entries = made.cluster.api.objects[(ISVC, NAME)]["spec"]["canary"]
        names |= {entry["predictor"]["name"] for entry in entries}
        assert len(entries) == 1
    assert len(names) == 3
    assert all(name == name.lower() and name.replace("-", "").isalnum() for name in names)


@on(Standard)
async def test_the_admission_webhook_is_quoted(made: OnCluster) -> None:
    made.edit(ISVC, NAME, lambda s: s["spec"]["predictor"].update(minReplicas=0))
    router = made.router()
    with pytest.raises(ClusterRefused, match="canary minReplicas must not exceed"):
        router.deploy(Arm.CANARY, model("5"))
