"""The traps of an HTTPRoute of our own, one by one."""

from __future__ import annotations

import pytest

from coalmine.arms import Arm
from coalmine.gateway import RouteNotApplied, RoutePlan
from coalmine.rollout.routers import ClusterRefused

from .api_server import Object
from .cluster_cases import on, plan
from .controllers import ISVC, ROUTE
from .data_planes import NAME, STABLE, OnCluster, OwnRoute, model, uri


@on(OwnRoute)
@pytest.mark.parametrize("share", [1.0, 0.25])
async def test_the_shadow_arm_gets_copies(made: OnCluster, share: float) -> None:
    router = made.router()
    router.deploy(Arm.SHADOW, model("5"))
    made.cluster.settle()
    mirrored = plan(0, mirror=(Arm.SHADOW, share))
    await router.apply(mirrored)
    assert await router.applied() == mirrored
    found = made.cluster.mirror(NAME)
    assert found is not None
    assert found[0] == uri("5")
    fraction = {"numerator": 250_000, "denominator": 1_000_000}
    assert found[1].get("fraction") == (fraction if share < 1 else None)
    await router.apply(plan(0))
    assert made.cluster.mirror(NAME) is None
    router.retire(Arm.SHADOW)
    assert f"{NAME}-shadow" not in made.cluster.api.named(ISVC)


@on(OwnRoute)
async def test_the_baseline_is_a_third_backend_as_large_as_stable(made: OnCluster) -> None:
    made.edit(ISVC, f"{NAME}-stable", lambda s: s["spec"]["predictor"].update(minReplicas=3))
    router = made.router()
    await router.apply(plan(0))
    router.deploy(Arm.BASELINE, STABLE)
    made.cluster.settle()
    assert await router.ready(Arm.BASELINE, STABLE.version)
    copied = made.cluster.api.objects[(ISVC, f"{NAME}-baseline")]["spec"]["predictor"]
    assert copied["minReplicas"] == 3
    assert copied["model"]["storageUri"] == uri(STABLE.version)

    for canary in (10, 50):
        beside = {Arm.CANARY: canary, Arm.BASELINE: canary, Arm.STABLE: 100 - 2 * canary}
        weights = {arm: weight for arm, weight in beside.items() if weight}
        step = RoutePlan(f"r1.step-{canary}", weights, salt="r1")
        await router.apply(step)
        assert await router.applied() == step
        rule = made.cluster.api.objects[(ROUTE, NAME)]["spec"]["rules"][0]
        found = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
        assert found == {f"{NAME}-{arm}-predictor": weight for arm, weight in weights.items()}
        assert made.cluster.shares(NAME) == {uri("3"): 100 - canary, uri("4"): canary}

    # The same model behind both: only the arms tell that the baseline lost its share.
    made.tamper({Arm.CANARY: 50, Arm.STABLE: 50})
    made.cluster.settle()
    seen = await router.applied()
    assert seen is not None
    assert dict(seen.weights) == {Arm.CANARY: 50, Arm.STABLE: 50}
    await router.apply(plan(0))
    router.retire(Arm.BASELINE)
    assert f"{NAME}-baseline" not in made.cluster.api.named(ISVC)


@on(OwnRoute)
async def test_a_route_that_the_gateway_refuses_is_an_error_at_once(made: OnCluster) -> None:
    made.cluster.refuse_routes = "no listener matches m.example"
    with pytest.raises(ClusterRefused, match=r"Accepted is False: NotAllowed: no listener"):
        await made.router().apply(plan(10))
    assert await made.router().applied() is None


@on(OwnRoute)
async def test_an_arm_that_was_retired_meanwhile_gets_no_request(made: OnCluster) -> None:
    """Of a controller that slept through its lease, and goes on with what it had decided."""
    router = made.router(timeout=0.3)
    await router.apply(plan(0))
    made.cluster.api.remove(ISVC, f"{NAME}-canary")
    made.cluster.settle()
    with pytest.raises(RouteNotApplied, match="its pods run nothing that answers"):
        await router.apply(plan(10))
    made.cluster.settle()
    assert await made.reached() == {Arm.STABLE: 100}


@on(OwnRoute)
async def test_the_rest_of_the_route_is_left_alone(made: OnCluster) -> None:
    header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": []}}

    def change(route: Object) -> None:
        rule = route["spec"]["rules"][0]
        rule["filters"] = [header]
        rule["matches"] = [{"path": {"type": "PathPrefix", "value": "/v2"}}]
        rule["backendRefs"][0]["port"] = 8080
        route["spec"]["rules"].append({"backendRefs": [{"name": "x", "port": 9000}]})

    made.edit(ROUTE, NAME, change)
    await made.router().apply(plan(10))
    first, second = made.cluster.api.objects[(ROUTE, NAME)]["spec"]["rules"]
    assert first["filters"] == [header]
    assert first["matches"] == [{"path": {"type": "PathPrefix", "value": "/v2"}}]
    assert {backend["port"] for backend in first["backendRefs"]} == {8080}
    assert {backend["port"] for backend in second["backendRefs"]} == {9000}
    assert [backend["weight"] for backend in second["backendRefs"]] == [10, 90]


@on(OwnRoute)
async def test_an_arm_with_a_transformer_is_routed_to_its_transformer(made: OnCluster) -> None:
    made.cluster.stalled = True
    for arm in ("stable", "canary"):
        made.edit(ISVC, f"{NAME}-{arm}", lambda s: s["spec"].update(transformer={"containers": []}))
    with pytest.raises(RouteNotApplied):
        await made.router(timeout=0.1).apply(plan(10))
    rule = made.cluster.api.objects[(ROUTE, NAME)]["spec"]["rules"][0]
    names = [backend["name"] for backend in rule["backendRefs"]]
    assert names == [f"{NAME}-canary-transformer", f"{NAME}-stable-transformer"]


@on(OwnRoute)
async def test_a_service_that_is_being_deleted_is_not_taken_for_a_new_one(made: OnCluster) -> None:
    def dying(service: Object) -> None:
        service["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    made.edit(ISVC, f"{NAME}-canary", dying)
    with pytest.raises(RouteNotApplied, match="is being deleted"):
        made.router().deploy(Arm.CANARY, model("5"))
