"""What asks for a run over HTTP, and its fate."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .conftest import (
    ONSET,
    STARTS_AT,
    World,
    fill_log,
    finished,
    make_service,
    retrainer,
    until,
    webhook,
)

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


async def test_a_storm_of_alerts_starts_one_run(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    body = webhook("linger", starts_at=STARTS_AT, onset=ONSET)
    body["alerts"] = [{**body["alerts"][0], "fingerprint": f"f{n}"} for n in range(2500)]
    async with retrainer(make_service(), state=state, world=world) as client:
        answers = await asyncio.gather(*(client.post("/v1/alerts", json=body) for _ in range(4)))
        runs = (await client.get("/v1/runs")).json()["runs"]
        triggers = (await client.get("/v1/triggers")).json()["triggers"]
    fates = [answer.json()["triggers"] for answer in answers]
    assert sum(fate.get("accepted", 0) for fate in fates) == 1
    assert sum(fate.get("merged", 0) for fate in fates) == 9_999
    assert len(runs) == 1
    assert sum(trigger["count"] for trigger in triggers) == 10_000
    assert len(triggers) <= 2_501


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"version": "4"}',
        b'{"version": "3", "alerts": []}',
        b'{"version": "4", "alerts": [{"status": "firing", "labels": {}}]}',
        b'{"version": "4", "alerts": [{"status": "x", "labels": {}, "startsAt": "yesterday"}]}',
    ],
)
async def test_what_is_no_webhook_is_answered_with_400(
    state: Path, world: World, body: bytes
) -> None:
    async with retrainer(make_service(), state=state, world=world) as client:
        answer = await client.post("/v1/alerts", content=body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error"}
        assert (await client.get("/v1/runs")).json() == {"runs": []}


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("GET", "/v1/triggers?fate=lost", 400, "query.fate: Input should be 'accepted'"),
        ("GET", "/v1/triggers?limit=0", 400, "query.limit: "),
        ("GET", "/v1/alerts", 405, "GET /v1/alerts: Method Not Allowed"),
        ("GET", "/v1/nothing", 404, "GET /v1/nothing: Not Found"),
    ],
)
async def test_a_mistaken_request_is_told_in_the_form_of_all_errors(
    state: Path, world: World, method: str, path: str, status: int, named: str
) -> None:
    async with retrainer(make_service(), state=state, world=world) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(named)


async def test_a_person_may_start_a_run_and_is_told_why_not(state: Path, world: World) -> None:
    fill_log(state, since=ONSET)
    async with retrainer(make_service(), state=state, world=world) as client:
        order = {"reason": "reject please", "actor": "ann"}
        assert (await client.post("/v1/runs", json={"reason": "x"})).status_code == 400
        first = await client.post("/v1/runs", json=order)
        assert first.status_code == 201
        second = await client.post("/v1/runs", json=order)
        assert second.status_code == 409
        assert second.json() == {"error": f"into run {first.json()['id']}"}
        run = (await until(client, "/v1/runs", finished))["runs"][0]
        assert run["actor"] == "ann"
        # A person need not wait for the cooldown.
        assert (await client.post("/v1/runs", json=order)).status_code == 201
        assert (await client.get("/v1/runs/nothing")).status_code == 404
