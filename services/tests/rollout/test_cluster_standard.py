"""The traps of KServe's own canaries, one by one."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied, RoutePlan
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


@on(Standard)
async def test_the_baseline_is_an_entry_of_its_own_told_apart_by_its_name(made: OnCluster) -> None:
    router = made.router()
    await router.apply(plan(0))
    router.deploy(Arm.BASELINE, STABLE)
    made.cluster.settle()
    assert await router.ready(Arm.BASELINE, STABLE.version)
    router.deploy(Arm.BASELINE, STABLE)  # again, which changes nothing
    router.deploy(Arm.CANARY, CANARY)
    made.cluster.settle()

    for canary in (10, 50):
        beside = {Arm.CANARY: canary, Arm.BASELINE: canary, Arm.STABLE: 100 - 2 * canary}
        weights = {arm: weight for arm, weight in beside.items() if weight}
        step = RoutePlan(f"r1.step-{canary}", weights, salt="r1")
        await router.apply(step)
        assert await router.applied() == step
        assert made.cluster.shares(NAME) == {uri("3"): 100 - canary, uri("4"): canary}
        again = await made.router().applied()  # by what the cluster tells alone
        assert again is not None
        assert dict(again.weights) == weights

    entries = made.cluster.api.objects[(ISVC, NAME)]["spec"]["canary"]
    assert {entry["trafficPercent"] for entry in entries} == {50}

    # The same model behind both: only the name tells that the baseline lost its share.
    def move(service: Object) -> None:
        for entry in service["spec"]["canary"]:
            if entry["predictor"]["name"] == "coalmine-baseline":
                entry["trafficPercent"] = 0

    made.edit(ISVC, NAME, move)
    seen = await router.applied()
    assert seen is not None
    assert dict(seen.weights) == {Arm.CANARY: 50, Arm.STABLE: 50}

    await router.apply(plan(100))
    router.deploy(Arm.STABLE, CANARY)  # is promoted, with the baseline still there
    made.cluster.settle()
    assert made.cluster.shares(NAME) == {uri("4"): 100}
    router.retire(Arm.BASELINE)
    made.cluster.settle()
    (left,) = made.cluster.api.objects[(ISVC, NAME)]["spec"]["canary"]
    assert left["predictor"]["model"]["storageUri"] == uri("3"), "the way back is still open"
    assert f"{NAME}-coalmine-baseline-predictor" not in made.cluster.api.named(DEPLOYMENT)


@on(Standard)
async def test_the_canary_goes_and_the_baseline_stays_until_it_is_retired(made: OnCluster) -> None:
    router = made.router()
    router.deploy(Arm.BASELINE, STABLE)
    made.cluster.settle()
    await router.apply(plan(0))
    router.retire(Arm.CANARY)
    (left,) = made.cluster.api.objects[(ISVC, NAME)]["spec"]["canary"]
    assert left["predictor"]["name"] == "coalmine-baseline"
    router.retire(Arm.BASELINE)
    assert "canary" not in made.cluster.api.objects[(ISVC, NAME)]["spec"]
