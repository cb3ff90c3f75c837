"""The gateway as a client and as the rollout controller see it; every part is the real one."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pyqwest
import pytest

from coalmine.arms import Arm
from coalmine.gateway import GatewayUnavailable, RouteNotApplied, RoutePlan
from coalmine.spec import RoutingSpec

from .conftest import started_gateway

if TYPE_CHECKING:
    from conftest import Process, RunningGateway

ALL_STABLE = RoutePlan("d-1", {Arm.STABLE: 100}, mirror=None, salt="r-1")


async def ask(client: httpx.AsyncClient, path: str = "/v1/x", **kwargs: Any) -> dict[str, Any]:
    response = await client.post(path, **kwargs)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def http(gateway: RunningGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False)


async def call_grpc(gateway: RunningGateway, payload: bytes = b"hi") -> dict[str, Any]:
    async with grpc.aio.insecure_channel(gateway.url.removeprefix("http://")) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer: dict[str, Any] = json.loads(await method(payload, timeout=20))
        return answer


async def arms_of(client: httpx.AsyncClient, users: range) -> dict[int, str]:
    headers = [{"x-user-id": f"user-{user}"} for user in users]
    answers = await asyncio.gather(*(ask(client, headers=header) for header in headers))
    return {user: answer["arm"] for user, answer in zip(users, answers, strict=True)}


async def test_without_a_model_it_says_so_in_json_and_grpc(gateway: RunningGateway) -> None:
    async with http(gateway) as client, gateway.control() as control:
        response = await client.post("/v2/models/x/infer", json={})
        applied = await control.applied()
    assert response.status_code == 503
    assert response.json() == {"error": "no model version is deployed yet"}
    assert applied is not None
    assert dict(applied.weights) == {}
    with pytest.raises(grpc.aio.AioRpcError, match="no model version is deployed yet") as caught:
        await call_grpc(gateway)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_one_port_for_http1_http2_and_grpc(gateway: RunningGateway) -> None:
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(ALL_STABLE)
        assert (await ask(client))["http"] == "1.1"
    h2 = pyqwest.Client(pyqwest.HTTPTransport(http_version=pyqwest.HTTPVersion.HTTP2))
    response = await h2.post(f"{gateway.url}/v1/x", content=b"hi")
    assert json.loads(response.content)["http"] == "2"
    assert (await call_grpc(gateway))["arm"] == "stable"


async def test_the_applied_plan_reads_back_equal(gateway: RunningGateway) -> None:
    plans = [
        ALL_STABLE,
        RoutePlan("d-2", {Arm.STABLE: 100}, mirror=(Arm.SHADOW, 0.25), salt="r-2"),
        RoutePlan("d-3", {Arm.STABLE: 93, Arm.CANARY: 7}, mirror=None, salt="r-2"),
        RoutePlan("d-4", {Arm.STABLE: 100, Arm.CANARY: 0}, mirror=None, salt="r-2"),
        RoutePlan("d-5", {}, mirror=None, salt="r-2"),
    ]
    async with gateway.control() as control:
        for plan in plans:
            await control.apply(plan)
            assert await control.applied() == plan


async def test_the_split_follows_the_weights(gateway: RunningGateway) -> None:
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(RoutePlan("d-1", {Arm.STABLE: 80, Arm.CANARY: 20}, None, "r-1"))
        answers = [await ask(client) for _ in range(1000)]
    share = Counter(answer["arm"] for answer in answers)["canary"] / 1000
    assert 0.14 < share < 0.26  # 20 % within 5 standard errors


async def test_sticky_callers_stay_while_the_weight_rises(gateway: RunningGateway) -> None:
    users = range(300)
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(RoutePlan("d-1", {Arm.STABLE: 90, Arm.CANARY: 10}, None, "r-1"))
        first = await arms_of(client, users)
        assert await arms_of(client, users) == first
        await control.apply(RoutePlan("d-2", {Arm.STABLE: 50, Arm.CANARY: 50}, None, "r-1"))
        later = await arms_of(client, users)
        await control.apply(RoutePlan("d-3", {Arm.STABLE: 50, Arm.CANARY: 50}, None, "r-2"))
        salted = await arms_of(client, users)
    canary = {user for user, arm in first.items() if arm == "canary"}
    assert 10 < len(canary) < 60
    assert canary <= {user for user, arm in later.items() if arm == "canary"}
    assert salted != later, "the next rollout must not test on the same callers"


async def test_sticky_callers_of_canary_and_baseline_stay_while_the_weights_rise(
    tmp_path: Path, upstreams: dict[Arm, Process], routing: RoutingSpec
) -> None:
    # The shadow's server is the baseline's here: it says `shadow`.
    arms = {**upstreams, Arm.BASELINE: upstreams[Arm.SHADOW]}
    users, dealt = range(400), []
    with started_gateway(tmp_path, arms, routing) as gateway:
        async with gateway.control() as control, http(gateway) as client:
            for canary in (10, 30, 50):
                weights = {Arm.CANARY: canary, Arm.BASELINE: canary, Arm.STABLE: 100 - 2 * canary}
                plan = RoutePlan(f"d-{canary}", weights, salt="r-1")
                await control.apply(plan)
                assert await control.applied() == plan
                answers = await arms_of(client, users)
                dealt.append(
                    {a: {u for u in users if answers[u] == a} for a in ("canary", "shadow")}
                )
    for before, after in itertools.pairwise(dealt):
        for arm in ("canary", "shadow"):
            assert before[arm] < after[arm]
    for share, sets in zip((0.1, 0.3, 0.5), dealt, strict=True):
        for arm in ("canary", "shadow"):
            assert abs(len(sets[arm]) / 400 - share) < 0.13


async def test_the_mirror_gets_the_same_request_and_ids(
    gateway: RunningGateway, upstreams: dict[Arm, Process]
) -> None:
    body = b"x" * 2_000_000
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(RoutePlan("d-1", {Arm.STABLE: 100}, (Arm.SHADOW, 1.0), "r-1"))
        shadow = httpx.AsyncClient(base_url=upstreams[Arm.SHADOW].url, trust_env=False)
        before = len((await shadow.get("/seen")).json())
        given = await ask(client, content=body, headers={"x-request-id": "mine-1"})
        absent = await ask(client)
        for _ in range(200):
            seen = (await shadow.get("/seen")).json()[before:]
            if len(seen) == 2:
                break
            await asyncio.sleep(0.02)
        await shadow.aclose()
    assert given["arm"] == absent["arm"] == "stable"
    by_id = {one["id"]: one for one in seen}
    assert by_id["mine-1"]["bytes"] == 2_000_000
    assert by_id["mine-1"]["host"] == given["host"]
    assert by_id["mine-1"]["own_id"] == given["own_id"]
    assert by_id[None]["own_id"] == absent["own_id"]
    assert given["own_id"] != absent["own_id"]


async def test_a_body_above_the_limit_is_refused(gateway: RunningGateway) -> None:
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(ALL_STABLE)
        response = await client.post("/v1/x", content=b"x" * (5 * 1024**2))
        assert response.status_code == 413
        assert "error" in response.json()
        fits = await ask(client, content=b"x" * (4 * 1024**2 - 1))
    assert fits["bytes"] == 4 * 1024**2 - 1


async def test_a_hundred_changes_under_load_fail_no_request(gateway: RunningGateway) -> None:
    stop = asyncio.Event()
    answers: Counter[str] = Counter()

    async def load(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            answers[(await ask(client))["arm"]] += 1

    async with gateway.control() as control, http(gateway) as client:
        await control.apply(ALL_STABLE)
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load(client))
            for change in range(100):
                weights = {Arm.STABLE: 100 - change % 50, Arm.CANARY: change % 50}
                await control.apply(RoutePlan(f"c-{change}", weights, None, "r-1"))
            stop.set()
    assert answers["stable"] > 0
    assert answers["canary"] > 0


@pytest.mark.parametrize("routing", [RoutingSpec(retries=30)])
async def test_an_arm_killed_and_restarted_fails_no_request(
    gateway: RunningGateway, upstreams: dict[Arm, Process]
) -> None:
    arm = upstreams[Arm.STABLE]
    stop = asyncio.Event()
    slow = {"x-delay": "0.4"}

    async def load(client: httpx.AsyncClient) -> int:
        count = 0
        while not stop.is_set():
            await ask(client, headers=slow if count % 2 else None, content=b"x" * 100_000)
            count += 1
        return count

    async def load_grpc() -> int:
        count = 0
        while not stop.is_set():
            await call_grpc(gateway)
            count += 1
        return count

    async with gateway.control() as control, http(gateway) as client:
        await control.apply(ALL_STABLE)
        async with asyncio.TaskGroup() as group:
            loads = [group.create_task(load(client)) for _ in range(4)]
            loads.append(group.create_task(load_grpc()))
            await asyncio.sleep(0.6)
            arm.kill()
            await asyncio.sleep(4)
            await asyncio.to_thread(arm.start)
            await asyncio.sleep(0.5)
            stop.set()
    assert min(task.result() for task in loads) > 2


@pytest.mark.parametrize("routing", [RoutingSpec(retries=1)])
async def test_an_arm_that_stays_away_is_a_json_error(
    gateway: RunningGateway, upstreams: dict[Arm, Process]
) -> None:
    upstreams[Arm.CANARY].kill()
    try:
        async with gateway.control() as control, http(gateway) as client:
            await control.apply(RoutePlan("d-1", {Arm.CANARY: 100}, None, "r-1"))
            response = await client.post("/v1/x")
        assert response.status_code == 503
        assert "error" in response.json()
    finally:
        upstreams[Arm.CANARY].start()


async def test_an_unknown_arm_is_rejected_and_the_old_plan_stays(gateway: RunningGateway) -> None:
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(ALL_STABLE)
        bad = RoutePlan("d-2", {Arm.STABLE: 50, Arm.BASELINE: 50}, None, "r-1")
        with pytest.raises(RouteNotApplied, match=r"d-2: Envoy rejected the routes to .*baseline"):
            await control.apply(bad)
        assert await control.applied() == ALL_STABLE
        assert (await ask(client))["arm"] == "stable"
        gateway.process.kill()
        gateway.process.start()
        assert (await ask(client))["arm"] == "stable", "the rejected file must not stay"
        await control.apply(RoutePlan("d-3", {Arm.CANARY: 100}, None, "r-1"))
        assert (await ask(client))["arm"] == "canary"


async def test_a_restarted_envoy_has_the_last_plan(gateway: RunningGateway) -> None:
    plan = RoutePlan("d-9", {Arm.CANARY: 100}, None, "r-1")
    async with gateway.control() as control, http(gateway) as client:
        await control.apply(plan)
        gateway.process.kill()
        with pytest.raises(GatewayUnavailable):
            await control.applied()
        gateway.process.start()
        assert await control.applied() == plan
        assert (await ask(client))["arm"] == "canary"


async def test_apply_waits_for_an_envoy_that_restarts(gateway: RunningGateway) -> None:
    async with gateway.control() as control:
        gateway.process.kill()
        applying = asyncio.create_task(control.apply(ALL_STABLE))
        await asyncio.sleep(0.3)
        assert not applying.done()
        await asyncio.to_thread(gateway.process.start)
        await applying
        assert await control.applied() == ALL_STABLE


async def test_apply_gives_up_and_takes_the_plan_back(gateway: RunningGateway) -> None:
    async with gateway.control(timeout=0.5) as control:
        await control.apply(ALL_STABLE)
        gateway.process.kill()
        with pytest.raises(RouteNotApplied, match="does not answer"):
            await control.apply(RoutePlan("d-2", {Arm.CANARY: 100}, None, "r-1"))
        gateway.process.start()
        assert await control.applied() == ALL_STABLE


async def test_a_cancelled_apply_takes_the_plan_back(gateway: RunningGateway) -> None:
    async with gateway.control() as control:
        await control.apply(ALL_STABLE)
        gateway.process.kill()
        applying = asyncio.create_task(control.apply(RoutePlan("d-2", {Arm.CANARY: 100})))
        await asyncio.sleep(0.2)
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
        gateway.process.start()
        assert await control.applied() == ALL_STABLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {Arm.STABLE: 90}}, "add up to 100"),
        ({"weights": {Arm.STABLE: 110, Arm.CANARY: -10}}, "must not be negative"),
        ({"weights": {Arm.SHADOW: 100}}, "shadow"),
        ({"weights": {}, "mirror": (Arm.SHADOW, 0.0)}, "mirror"),
        ({"weights": {}, "salt": "a\\1"}, "salt"),
        ({"weights": {}, "decision_id": ""}, "decision_id"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutePlan(**{"decision_id": "d", **arguments})
