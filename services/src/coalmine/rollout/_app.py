"""The rollout service: HTTP in front, the controller in the lifespan."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.gateway import RoutePlan
from coalmine.rollout import _shown
from coalmine.rollout._champion import FencedRegistry
from coalmine.rollout._commands import command, start
from coalmine.rollout._controller import Controller
from coalmine.rollout._errors import (
    CandidateUnavailable,
    RolloutError,
    RolloutRefused,
    UnknownRollout,
)
from coalmine.rollout._judge import Judge
from coalmine.rollout._metrics import RolloutCollector
from coalmine.rollout._protocols import ArmHost, ModelRegistry, Router
from coalmine.rollout._source import EvidenceSource, MonitorEvidence
from coalmine.rollout._store import Store
from coalmine.rollout._world import World
from coalmine.spec import ServiceSpec

__all__ = ["create_app"]

_STATUS: dict[type[Exception], int] = {
    UnknownRollout: 404,
    CandidateUnavailable: 404,
    RolloutRefused: 409,
    RolloutError: 503,
    sqlite3.OperationalError: 503,
}


class _Start(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: str = Field(min_length=1, max_length=128)
    shadow: bool = True
    reason: str = Field(default="", max_length=2000)
    actor: str = Field(default="unknown", min_length=1, max_length=200)


class _By(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2000)
    actor: str = Field(default="unknown", min_length=1, max_length=200)


def create_app(
    service: ServiceSpec,
    *,
    state: Path,
    router: Router,
    host: ArmHost,
    registry: ModelRegistry,
    evidence_url: str,
    requests: EvidenceSource | None = None,
    clock: Clock = SYSTEM_CLOCK,
    metrics: CollectorRegistry | None = None,
) -> FastAPI:
    """The rollout controller of a service; it acts while the app's lifespan lasts.

    `state` is its SQLite file, `evidence_url` the performance monitor's base address. `requests`
    counts the requests, where that is not the monitor (`rollout.evidence`); it is closed with the
    app.
    """
    store = Store(state, clock=clock)
    monitor = MonitorEvidence(evidence_url, block_s=service.monitors.performance.block)
    judge = Judge(
        monitor,
        requests=requests,
        clock=clock,
        sticky=service.routing.sticky_header is not None,
    )
    champion = FencedRegistry(registry, state.with_suffix(".champion"))
    world = World(router, host, champion)
    controller = Controller(store, world=world, judge=judge, clock=clock)
    collectors = CollectorRegistry() if metrics is None else metrics
    collectors.register(RolloutCollector(store, controller, model_name=service.name))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(controller.run(), name="rollout controller")
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            for source in (monitor, requests):
                if source is not None:
                    await source.aclose()
            await asyncio.to_thread(store.close)

    app = FastAPI(title="coalmine rollout", lifespan=lifespan)
    _handle_errors(app)
    _serve_health(app, collectors)
    _serve_world(app, controller, world)
    _serve_rollouts(app, store, controller, registry=registry, service=service, clock=clock)
    return app


def _handle_errors(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> JSONResponse:
        status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
        return JSONResponse({"error": str(error)}, status_code=status)

    for kind in _STATUS:
        app.add_exception_handler(kind, known)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":  # Its place is a character's, not a key.
            return JSONResponse({"error": "body: this is not JSON"}, status_code=400)
        key = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{key}: {first['msg']}"}, status_code=400)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse({"error": what}, status_code=error.status_code, headers=error.headers)


def _serve_health(app: FastAPI, collectors: CollectorRegistry) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    # Not async: what reads SQLite belongs in the pool of threads.
    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(collectors), media_type=CONTENT_TYPE_LATEST)


def _serve_world(app: FastAPI, controller: Controller, world: World) -> None:
    @app.get("/v1/weights")
    async def weights() -> dict[str, Any]:
        plan: RoutePlan | None = controller.confirmed
        return _shown.plan(await world.router.applied() if plan is None else plan)

    @app.get("/v1/arms")
    async def arms() -> dict[str, Any]:
        current = await asyncio.to_thread(world.host.current)
        answers = [world.host.ready(arm, model.version) for arm, model in current.items()]
        ready = await asyncio.gather(*answers)
        return {
            "arms": {
                arm.value: {
                    "version": model.version,
                    "path": str(model.path),
                    "digest": model.digest,
                    "ready": answered,
                }
                for (arm, model), answered in zip(current.items(), ready, strict=True)
            }
        }


def _serve_rollouts(
    app: FastAPI,
    store: Store,
    controller: Controller,
    *,
    registry: ModelRegistry,
    service: ServiceSpec,
    clock: Clock,
) -> None:
    @app.post("/v1/rollouts", status_code=201)
    def begin(request: _Start) -> dict[str, str]:
        rollout = start(
            store,
            registry,
            version=request.version,
            policy=service.rollout,
            shadow=request.shadow,
            reason=request.reason,
            actor=request.actor,
            clock=clock,
        )
        return {"id": rollout.id}

    @app.get("/v1/rollouts")
    def rollouts() -> dict[str, Any]:
        return {"rollouts": [_shown.rollout(each) for each in store.rollouts()]}

    @app.get("/v1/rollouts/{id}")
    def rollout(id: str) -> dict[str, Any]:
        found = store.rollout(id)
        return _shown.whole(found, store.ledger(id), controller=controller)

    @app.post("/v1/rollouts/{id}/{what}")
    def act(
        id: str, what: Literal["pause", "resume", "promote", "abort"], by: _By | None = None
    ) -> dict[str, Any]:
        by = by or _By()
        changed = command(store, id, what, actor=by.actor, reason=by.reason, clock=clock)
        return _shown.rollout(changed)
