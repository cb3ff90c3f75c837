"""Several writers of one object, and an API server with troubles: nobody's work is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from coalmine.arms import Arm
from coalmine.fencing import FencedOff
from coalmine.gateway import GatewayUnavailable, RouteNotApplied
from coalmine.rollout.routers import ClusterRefused

from .api_server import Fault
from .cluster_cases import ALL, WEIGHTS, on, plan
from .controllers import ISVC, ROUTE
from .data_planes import CANARY, NAME, STABLE, OnCluster, OwnRoute, model


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


# -- controllers that were overtaken ---------------------------------------------------------------


@on(*ALL)
async def test_a_controller_that_was_overtaken_changes_no_arm(made: OnCluster) -> None:
    old, new = made.router(), made.router()
    old.claim(4)
    await old.apply(plan(0))
    new.claim(5)
    before = made.cluster.api.writes.copy()
    with pytest.raises(FencedOff):
        old.deploy(Arm.CANARY, model("5"))
    with pytest.raises(FencedOff):
        old.retire(Arm.CANARY)
    with pytest.raises(FencedOff):
        await old.apply(plan(10))
    assert made.cluster.api.writes == before
    assert new.current() == {Arm.STABLE: STABLE, Arm.CANARY: CANARY}


@on(*ALL)
async def test_a_write_that_was_under_way_at_the_takeover_is_refused(made: OnCluster) -> None:
    """The old controller has read and is about to write; the new one claims and writes first."""
    old, new = made.router(), made.router()
    old.claim(4)
    await old.apply(plan(10))

    def overtaken() -> None:
        new.claim(5)
        asyncio.run(new.apply(plan(0)))

    rival = threading.Thread(target=overtaken)

    def let_it_pass() -> None:
        # Within the old one's request, which waits here; the lock is the API server's own.
        made.cluster.api.lock.release()
        rival.start()
        rival.join()
        made.cluster.api.lock.acquire()

    made.cluster.api.before_write.append(let_it_pass)
    with pytest.raises((FencedOff, RouteNotApplied)):
        await old.apply(plan(50))
    assert await made.reached() == {Arm.STABLE: 100}
