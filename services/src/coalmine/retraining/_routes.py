"""The retrainer's routes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from coalmine.retraining._bodies import Order, Reset, read_as, read_body
from coalmine.retraining._errors import RunRefused
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._retrainer import Parts
from coalmine.retraining._standing import back_off_seconds
from coalmine.retraining._types import Ask, Fate, Run, Source
from coalmine.retraining._webhook import parse_notification

#: Webhooks that are read and judged at once; the bodies of further ones stay with their senders.
_AT_ONCE = 16
_MAX_LISTED = 20_000


def add_routes(app: FastAPI, metrics: Metrics) -> None:
    """Add all routes."""
    _add_triggers(app)
    _add_runs(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_triggers(app: FastAPI) -> None:
    reading = asyncio.Semaphore(_AT_ONCE)

    @app.post("/v1/alerts")
    async def alerts(request: Request) -> dict[str, Any]:
        async with reading:
            notification = parse_notification(await read_body(request))
            asks = notification.asks()
            answer = await _parts(app).intake.submit(asks)
        return {"triggers": answer.fates}

    @app.post("/v1/runs", status_code=201)
    async def start(request: Request) -> dict[str, str]:
        order = await read_as(request, Order)
        parts = _parts(app)
        identity = f"{order.source}@{parts.clock.time()}"
        ask = Ask(order.source, order.reason, identity, reason=order.reason, actor=order.actor)
        answer = await parts.intake.submit([ask])
        if answer.run is None:
            raise RunRefused(answer.reason)
        return {"id": answer.run.id}

    @app.get("/v1/triggers")
    async def triggers(
        fate: Fate | None = None,
        source: Source | None = None,
        run: str | None = None,
        since: float | None = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_LISTED)] = _MAX_LISTED,
    ) -> dict[str, Any]:
        store = _parts(app).store
        found = await asyncio.to_thread(
            store.triggers, fate=fate, source=source, run=run, since=since, limit=limit
        )
        return {"triggers": [asdict(trigger) for trigger in found]}

    @app.post("/v1/reset")
    async def reset(request: Request) -> dict[str, Any]:
        order = await read_as(request, Reset)
        await _parts(app).routine.reset(reason=order.reason, actor=order.actor)
        return await _status(_parts(app))


def _add_runs(app: FastAPI) -> None:
    @app.get("/v1/runs")
    async def runs() -> dict[str, Any]:
        parts = _parts(app)
        found = await asyncio.to_thread(parts.store.runs)
        # What was never started is no run: its trigger's fate tells why.
        return {"runs": [_shown(run, parts) for run in found if run.state != "cancelled"]}

    @app.get("/v1/runs/{identifier}")
    async def one_run(identifier: str) -> dict[str, Any]:
        parts = _parts(app)
        return _shown(await asyncio.to_thread(parts.store.run, identifier), parts)

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        return await _status(_parts(app))


def _parts(app: FastAPI) -> Parts:
    parts: Parts = app.state.parts
    return parts


def _shown(run: Run, parts: Parts) -> dict[str, Any]:
    """A run as the API shows it; while it runs, with the steps so far (null: under way)."""
    if run.state != "running":
        return {**asdict(run), "steps": run.steps or {}, "progress": None}
    return {
        **asdict(run),
        "steps": parts.runner.steps(run),
        "progress": asdict(parts.runner.progress(run)),
    }


async def _status(parts: Parts) -> dict[str, Any]:
    """What stands in the way of a run now. Times are seconds since the epoch, null for none."""
    now, policy = parts.clock.time(), parts.policy
    found = await parts.intake.standing()
    active = await asyncio.to_thread(parts.store.active_run)
    return {
        "now": now,
        "time_limit": policy.time_limit,
        "run": None if active is None else _shown(active, parts),
        "breaker": {
            "open": found.breaker_open(policy),
            "failures": found.failures,
            "max_failures": policy.max_failures,
            "last": found.last_failure,
            "run": found.last_failed_run,
        },
        "back_off": {
            "rejections": found.rejections,
            "seconds": back_off_seconds(policy, found.rejections),
            "until": found.back_off_until(policy, now=now),
        },
        "cooldown_until": found.cooldown_until(policy, now=now),
        "runs_today": found.runs_today(now=now),
        "daily_budget": policy.daily_budget,
        "next_scheduled": await parts.routine.next_scheduled(),
    }
