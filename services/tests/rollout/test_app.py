"""The service over HTTP, with the controller running and a monitor on a socket; fast time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coalmine.rollout import create_app
from coalmine.spec import ModelSpec, ServiceSpec

from .fakes import FileWorld, Traffic
from .stories import QUICK, FastClock


@pytest.fixture
def world(tmp_path: Path) -> FileWorld:
    world = FileWorld(tmp_path / "world", FastClock(), start_up=1.0)
    for version in ("3", "4", "5"):
        world.add_version(version)
    return world


@pytest.fixture
def traffic(world: FileWorld) -> Traffic:
    return Traffic(world, FastClock(), accuracy={"3": 0.6, "4": 0.95, "5": 0.1})


@pytest.fixture
def monitor(traffic: Traffic) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            since = float(parse_qs(parts.query)["since"][0])
            found = parts.path == "/performance/v1/evidence"
            body = json.dumps(traffic.answer(since)).encode() if found else b"{}"
            self.send_response(200 if found else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/performance"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
async def client(
    tmp_path: Path, world: FileWorld, monitor: str
) -> AsyncIterator[httpx.AsyncClient]:
    service = ServiceSpec(name="ev", model=ModelSpec(uri="file:x"), rollout=QUICK)
    app = create_app(
        service,
        state=tmp_path / "rollout.db",
        router=world,
        host=world,
        registry=world,
        evidence_url=monitor,
        clock=FastClock(),
    )
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://rollout") as client,
    ):
        yield client


async def roll(client: httpx.AsyncClient, version: str, **more: Any) -> dict[str, Any]:
    """Start a rollout and wait for its end."""
    answer = await client.post("/v1/rollouts", json={"version": version, "actor": "me", **more})
    assert answer.status_code == 201, answer.text
    return await ended(client, answer.json()["id"])


async def ended(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    for _ in range(300):
        shown: dict[str, Any] = (await client.get(f"/v1/rollouts/{id}")).json()
        if shown["ended"] is not None:
            return shown
        await asyncio.sleep(0.05)
    raise AssertionError(f"still {shown['state']}, {shown['stage']}: {shown['note']}")


async def test_a_rollout_over_http_from_the_offer_to_the_champion(
    client: httpx.AsyncClient,
) -> None:
    await roll(client, "3")
    shown = await roll(client, "4", reason="it is better")

    assert (shown["state"], shown["verdict"]) == ("promoted", "non_inferior")
    assert (shown["reason"], shown["actor"], shown["stable_version"]) == ("it is better", "me", "3")
    assert shown["evidence"]["verdict"] == "non_inferior"
    assert {guard["metric"] for guard in shown["evidence"]["guards"]} == {
        "error_rate", "slow_rate", "accuracy",
    }  # fmt: skip
    states = list(dict.fromkeys(entry["state"] for entry in shown["ledger"]))
    assert states == ["pending", "shadowing", "stepping", "promoted"]
    weights = (await client.get("/v1/weights")).json()
    assert weights == {"decision_id": "r2.settle", "weights": {"stable": 100}, "mirror": None}
    arms = (await client.get("/v1/arms")).json()["arms"]
    assert {arm: (a["version"], a["ready"]) for arm, a in arms.items()} == {"stable": ("4", True)}
    listed = (await client.get("/v1/rollouts")).json()["rollouts"]
    assert [each["id"] for each in listed] == ["r2", "r1"]


async def test_prometheus_sees_the_rollouts(client: httpx.AsyncClient) -> None:
    await roll(client, "3")
    await roll(client, "5", shadow=False)
    text = (await client.get("/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["coalmine_rollout_state", "ev", "rolled_back"] == 1.0
    assert samples["coalmine_rollout_weight", "ev", "stable"] == 100.0
    assert samples["coalmine_rollouts_total", "ev", "promoted"] == 1.0
    assert samples["coalmine_rollouts_total", "ev", "rolled_back"] == 1.0
    assert samples["coalmine_rollout_controller_acting", "ev"] == 1.0
    key = ("accuracy", "ev", "labels", "no_worse")
    found = samples["coalmine_rollout_evidence_log", *key]
    assert found >= samples["coalmine_rollout_evidence_log_threshold", *key]


async def test_commands_and_refusals(client: httpx.AsyncClient) -> None:
    await roll(client, "3")
    id = (await client.post("/v1/rollouts", json={"version": "4"})).json()["id"]

    second = await client.post("/v1/rollouts", json={"version": "5"})
    assert second.status_code == 409
    assert second.json() == {
        "error": f"{id} is under way with version 4; one runs at a time",
    }
    assert (await client.post(f"/v1/rollouts/{id}/resume")).status_code == 409
    by_ann = {"actor": "ann", "reason": "lunch"}
    paused = await client.post(f"/v1/rollouts/{id}/pause", json=by_ann)
    assert paused.json()["state"] == "holding"
    assert paused.json()["held"] == "paused by ann: lunch"
    await client.post(f"/v1/rollouts/{id}/abort", json={"actor": "ann"})
    shown = await ended(client, id)
    assert (shown["state"], shown["why"]) == ("aborted", "aborted by ann")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/v1/rollouts/r9", None, 404, "no rollout 'r9'"),
        ("POST", "/v1/rollouts/r9/abort", None, 404, "no rollout 'r9'"),
        ("POST", "/v1/rollouts", {"version": "9"}, 404, "version 9: m has no version '9'"),
        ("POST", "/v1/rollouts", {}, 400, "version: Field required"),
        ("POST", "/v1/rollouts", {"version": "3", "shade": 1}, 400, "shade: Extra inputs"),
        ("POST", "/v1/rollouts", {"version": ""}, 400, "version: String should have"),
        ("POST", "/v1/rollouts", b'{"version": ', 400, "body: this is not JSON"),
        ("POST", "/v1/rollouts", None, 400, "body: Field required"),
        ("GET", "/v1/rolouts", None, 404, "GET /v1/rolouts: Not Found"),
        ("DELETE", "/v1/rollouts/r9", None, 405, "DELETE /v1/rollouts/r9: Method Not Allowed"),
        ("POST", "/v1/rollouts/r9/explode", None, 400, "what: Input should be 'pause'"),
    ],
)
async def test_what_cannot_be_done_is_said(
    client: httpx.AsyncClient, method: str, path: str, body: Any, status: int, message: str
) -> None:
    sent: dict[str, Any] = {"json": body}
    if isinstance(body, bytes):
        sent = {"content": body, "headers": {"content-type": "application/json"}}
    answer = await client.request(method, path, **sent)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


async def test_health(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_it_carries_on_where_the_app_before_it_stopped(
    tmp_path: Path, world: FileWorld, monitor: str
) -> None:
    service = ServiceSpec(name="ev", model=ModelSpec(uri="file:x"), rollout=QUICK)
    id = None
    for _ in range(20):
        app = create_app(
            service,
            state=tmp_path / "rollout.db",
            router=world,
            host=world,
            registry=world,
            evidence_url=monitor,
            clock=FastClock(),
        )
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://rollout") as client,
        ):
            if id is None:
                await roll(client, "3")
                id = (await client.post("/v1/rollouts", json={"version": "4"})).json()["id"]
            await asyncio.sleep(0.7)
            shown = (await client.get(f"/v1/rollouts/{id}")).json()
        if shown["ended"] is not None:
            break
    assert shown["state"] == "promoted"
