"""The retrainer over HTTP: it translates, and starts and stops what works behind it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalmine.clock import Clock
from coalmine.retraining._errors import RetrainingError, RunRefused, UnknownRun, WebhookInvalid
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._peers import Peers
from coalmine.retraining._pipeline_run import PipelineRunner, Surroundings
from coalmine.retraining._readiness import Readiness
from coalmine.retraining._registry import local_registry
from coalmine.retraining._retrainer import Parts, Retrainer
from coalmine.retraining._store import Run, Store
from coalmine.retraining._webhook import parse_notification
from coalmine.spec import RetrainingSpec, ServiceSpec

#: Errors and the status that says whose fault they are.
_STATUS: dict[type[Exception], int] = {WebhookInvalid: 400, RunRefused: 409, UnknownRun: 404}


class _Order(BaseModel):
    """The body of `POST /v1/runs`."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=1000)
    actor: str = Field(min_length=1, max_length=200)


def create_app(
    service: ServiceSpec,
    *,
    state: Path,
    log_uri: str,
    quality_url: str,
    rollout_url: str,
    telemetry: Path | None,
    seed: int,
    clock: Clock,
) -> FastAPI:
    """Compose the retrainer; see `coalmine.retraining.create_app`."""
    metrics = Metrics(service.name)
    # A service without `retraining` still answers, and suppresses every alert.
    policy = service.retraining or RetrainingSpec(pipeline="nothing:to_run", alerts=())
    surroundings = Surroundings(
        service=service,
        policy=policy,
        state=state,
        log_uri=log_uri,
        telemetry=telemetry,
        seed=seed,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = await asyncio.to_thread(Store, state / "retraining.db")
        registry = local_registry(service.name, state=state)
        async with Peers(
            quality_url=quality_url, rollout_url=rollout_url, model_name=service.name
        ) as peers:
            runner = PipelineRunner(surroundings, store=store, registry=registry, clock=clock)
            readiness = Readiness(
                policy=policy,
                window_rows=service.monitors.drift.window_rows,
                log_uri=log_uri,
                peers=peers,
                registry=registry,
            )
            retrainer = Retrainer(
                Parts(
                    service=service,
                    store=store,
                    registry=registry,
                    peers=peers,
                    readiness=readiness,
                    runner=runner,
                    metrics=metrics,
                    clock=clock,
                )
            )
            app.state.store, app.state.runner, app.state.retrainer = store, runner, retrainer
            worker = asyncio.create_task(retrainer.work(), name="retrainer")
            try:
                yield
            finally:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker
                await asyncio.to_thread(store.close)

    app = FastAPI(title="Coalmine retrainer", lifespan=lifespan)
    for kind in (RetrainingError, sqlite3.Error):
        app.add_exception_handler(kind, _answer_error)
    _add_routes(app, metrics)
    return app


def _add_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.post("/v1/alerts")
    async def alerts(request: Request) -> dict[str, Any]:
        notification = parse_notification(await request.body())
        return {"triggers": await app.state.retrainer.alerts(notification)}

    @app.post("/v1/runs", status_code=201)
    async def start(request: Request) -> Any:
        try:
            order = _Order.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "body"
            return JSONResponse({"error": f"{key}: {first['msg']}"}, status_code=400)
        run = await app.state.retrainer.request(reason=order.reason, actor=order.actor)
        return {"id": run.id}

    @app.get("/v1/runs")
    async def runs() -> dict[str, Any]:
        found = await asyncio.to_thread(app.state.store.runs)
        # What was never started is no run: its trigger's fate tells why.
        return {"runs": [_shown(run, app) for run in found if run.state != "cancelled"]}

    @app.get("/v1/runs/{identifier}")
    async def one_run(identifier: str) -> dict[str, Any]:
        return _shown(await asyncio.to_thread(app.state.store.run, identifier), app)

    @app.get("/v1/triggers")
    async def triggers() -> dict[str, Any]:
        found = await asyncio.to_thread(app.state.store.triggers)
        return {"triggers": [asdict(trigger) for trigger in found]}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _shown(run: Run, app: FastAPI) -> dict[str, Any]:
    """A run as the API shows it; while it runs, with the steps so far (null: under way)."""
    steps = app.state.runner.steps(run) if run.state == "running" else run.steps
    return {**asdict(run), "steps": steps or {}}


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 503)
    return JSONResponse({"error": str(error)}, status_code=status)
