"""The traps of clusters, one by one: what is not in the contract that all routers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from coalmine.arms import Arm
from coalmine.gateway import GatewayUnavailable, RouteNotApplied, RoutePlan
from coalmine.rollout.routers import ClusterRefused, ModelUri

from .api_server import Fault, Object
from .controllers import DEPLOYMENT, ISVC, KSVC, MODE, REVISION, ROUTE
from .data_planes import (
    CANARY,
    NAME,
    STABLE,
    OnCluster,
    OwnRoute,
    Serverless,
    Standard,
    model,
    uri,
)

ALL = (Serverless, Standard, OwnRoute)
#: The object that holds the weights.
WEIGHTS = {Serverless: (ISVC, NAME), Standard: (ISVC, NAME), OwnRoute: (ROUTE, NAME)}


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[OnCluster]:
    plane = request.param()
    try:
        plane.deploy()
        yield plane
    finally:
        plane.close()


def on(*kinds: type[OnCluster]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("made", kinds, indirect=True, ids=lambda kind: kind.__name__)


def plan(canary: int, **more: Any) -> RoutePlan:
    weights = {Arm.STABLE: 100 - canary, Arm.CANARY: canary}
    weights = {arm: weight for arm, weight in weights.items() if weight}
    return RoutePlan(f"r1.step-{canary}", weights, salt="r1", **more)


def predictor(made: OnCluster) -> Object:
    found: Object = made.cluster.api.objects[(ISVC, NAME)]["spec"]["predictor"]
    return found


# -- other writers ---------------------------------------------------------------------------------


@on(*ALL)
async def test_a_note_of_another_controller_is_kept(made: OnCluster) -> None:
    resource, name = WEIGHTS[type(made)]
    api = made.cluster.api
    api.before_write += [
        lambda n=n: api.annotate(resource, name, "other/note", str(n)) for n in range(3)
    ]
    await made.router().apply(plan(10))
    assert await made.reached() == {Arm.STABLE: 90, Arm.CANARY: 10}
    assert api.objects[(resource, name)]["metadata"]["annotations"]["other/note"] == "2"


@on(*ALL)
async def test_weights_changed_between_reading_and_writing_are_not_overwritten(
    made: OnCluster,
) -> None:
    await made.router().apply(plan(10))
    theirs = {Arm.STABLE: 75, Arm.CANARY: 25}
    made.cluster.api.before_write.append(lambda: made.tamper(theirs))
    with pytest.raises(RouteNotApplied, match=r"r1\.step-50: .*another writer changed"):
        await made.router().apply(plan(50))
    made.cluster.settle()
    assert await made.reached() == theirs


@on(*ALL)
async def test_an_object_that_never_rests_is_given_up(made: OnCluster) -> None:
    resource, name = WEIGHTS[type(made)]
    api = made.cluster.api
    api.before_write += [
        lambda n=n: api.annotate(resource, name, "other/note", str(n)) for n in range(50)
    ]
    with pytest.raises(RouteNotApplied, match="keeps changing"):
        await made.router().apply(plan(10))


@on(OwnRoute)
async def test_a_controller_that_rewrites_weights_is_reported(made: OnCluster) -> None:
    made.cluster.rewrite_weights = {f"{NAME}-canary-predictor": 1, f"{NAME}-stable-predictor": 1}
    with pytest.raises(RouteNotApplied, match="somebody else changed the weights"):
        await made.router().apply(plan(10))


# -- an API server with troubles -------------------------------------------------------------------


@on(*ALL)
@pytest.mark.parametrize("kind", ["429", "503", "cut"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_busy_api_server_is_asked_again(made: OnCluster, method: str, kind: str) -> None:
    resource, _ = WEIGHTS[type(made)]
    made.cluster.api.faults.append(Fault(method, resource, kind, times=2))
    await made.router().apply(plan(10))
    assert await made.reached() == {Arm.STABLE: 90, Arm.CANARY: 10}


@on(*ALL)
async def test_a_write_whose_answer_was_lost_is_not_made_twice(made: OnCluster) -> None:
    api = made.cluster.api
    resource, _ = WEIGHTS[type(made)]
    api.faults.append(Fault("PUT", resource, "lost"))
    api.writes.clear()
    await made.router().apply(plan(10))
    assert await made.reached() == {Arm.STABLE: 90, Arm.CANARY: 10}
    assert len(api.writes) == 1


@on(*ALL)
async def test_weights_that_are_so_already_are_not_written(made: OnCluster) -> None:
    await made.router().apply(plan(10))
    made.cluster.api.writes.clear()
    await made.router().apply(plan(10))
    assert made.cluster.api.writes == []


@on(*ALL)
async def test_an_api_server_that_stays_away_is_unavailable(made: OnCluster) -> None:
    router = made.router(timeout=0.5)
    await router.apply(plan(10))
    made.cluster.api.faults += [
        Fault("GET", resource, "503", times=10_000) for resource in (ISVC, ROUTE, "configmaps")
    ]
    with pytest.raises(GatewayUnavailable, match="503"):
        await router.applied()
    assert not await router.ready(Arm.STABLE, "3")
    with pytest.raises(RouteNotApplied, match="503"):
        await router.apply(plan(50))


@on(*ALL)
async def test_a_deleted_object_is_named(made: OnCluster) -> None:
    resource, name = WEIGHTS[type(made)]
    router = made.router()
    await router.apply(plan(10))
    made.cluster.api.remove(resource, name)
    with pytest.raises(ClusterRefused, match=f"there is no {name}"):
        await router.applied()
    with pytest.raises(ClusterRefused, match=f"there is no {name}"):
        await router.apply(plan(50))


@on(*ALL)
async def test_a_wrong_token_says_which_permission_is_missing(made: OnCluster) -> None:
    router = made.router()
    object.__setattr__(router._api._access, "token", "wrong")
    with pytest.raises(ClusterRefused, match=r"needs the verb 'get' on configmaps"):
        await router.applied()


# -- deployments -----------------------------------------------------------------------------------


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


# -- Knative ---------------------------------------------------------------------------------------


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


# -- Standard --------------------------------------------------------------------------------------


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


# -- our own HTTPRoute -----------------------------------------------------------------------------


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


def test_a_uri_is_made_from_the_version_or_the_digest() -> None:
    uris = ModelUri("pvc://models/{name}/{version}-{digest}", name="m")
    assert uris.of(STABLE) == "pvc://models/m/3-333333333333"
