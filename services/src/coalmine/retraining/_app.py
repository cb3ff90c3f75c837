"""The retrainer over HTTP: it translates, and starts and stops what works behind it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from coalmine.clock import Clock
from coalmine.retraining._bodies import BodyTooLarge, OrderInvalid
from coalmine.retraining._errors import RetrainingError, RunRefused, UnknownRun, WebhookInvalid
from coalmine.retraining._features import ModelFeatures
from coalmine.retraining._intake import Intake
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._peers import Peers
from coalmine.retraining._pipeline_run import PipelineRunner, Surroundings
from coalmine.retraining._readiness import Readiness
from coalmine.retraining._registry import local_registry
from coalmine.retraining._retrainer import Parts, Retrainer
from coalmine.retraining._routes import add_routes
from coalmine.retraining._routine import Routine
from coalmine.retraining._store import Store
from coalmine.spec import RetrainingSpec, ServiceSpec

#: Errors and the status that says whose fault they are; what is not here is ours, and passes.
_STATUS: dict[type[Exception], int] = {
    WebhookInvalid: 400,
    OrderInvalid: 400,
    RunRefused: 409,
    UnknownRun: 404,
    BodyTooLarge: 413,
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a retrainer finds what it works with."""

    state: Path
    log_uri: str
    quality_url: str
    rollout_url: str
    telemetry: Path | None
    seed: int


def create_app(service: ServiceSpec, *, addresses: Addresses, clock: Clock) -> FastAPI:
    """Compose the retrainer; see `coalmine.retraining.create_app`."""
    metrics = Metrics(service.name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = await asyncio.to_thread(Store, addresses.state / "retraining.db")
        peers = Peers(
            quality_url=addresses.quality_url,
            rollout_url=addresses.rollout_url,
            model_name=service.name,
        )
        async with peers:
            parts = _compose(service, addresses, store, peers, metrics, clock)
            app.state.parts = parts
            worker = asyncio.create_task(Retrainer(parts).work(), name="retrainer")
            try:
                yield
            finally:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker
                await asyncio.to_thread(store.close)

    app = FastAPI(title="Coalmine retrainer", lifespan=lifespan)
    for kind in (RetrainingError, BodyTooLarge, OrderInvalid, sqlite3.Error):
        app.add_exception_handler(kind, _answer_error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{key}: {first['msg']}"}, status_code=400)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> JSONResponse:
        told = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse({"error": told}, error.status_code, headers=error.headers)

    add_routes(app, metrics)
    return app


def _compose(
    service: ServiceSpec,
    addresses: Addresses,
    store: Store,
    peers: Peers,
    metrics: Metrics,
    clock: Clock,
) -> Parts:
    # A service without `retraining` still answers, and suppresses every alert.
    policy = service.retraining or RetrainingSpec(pipeline="nothing:to_run", alerts=())
    state = addresses.state
    registry = local_registry(service.name, state=state)
    features = ModelFeatures(state / "models")
    intake = Intake(
        service,
        store=store,
        registry=registry,
        peers=peers,
        metrics=metrics,
        features=features,
        clock=clock,
    )
    return Parts(
        service=service,
        policy=policy,
        state=state,
        store=store,
        registry=registry,
        peers=peers,
        intake=intake,
        routine=Routine(
            service,
            policy=policy,
            state=state,
            store=store,
            registry=registry,
            peers=peers,
            intake=intake,
            metrics=metrics,
            clock=clock,
        ),
        readiness=Readiness(
            policy=policy,
            window_rows=service.monitors.drift.window_rows,
            log_uri=addresses.log_uri,
            peers=peers,
            registry=registry,
            features=features,
        ),
        runner=PipelineRunner(
            Surroundings(
                service=service,
                policy=policy,
                state=state,
                log_uri=addresses.log_uri,
                telemetry=addresses.telemetry,
                seed=addresses.seed,
            ),
            store=store,
            registry=registry,
            clock=clock,
        ),
        metrics=metrics,
        clock=clock,
    )


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 503)
    headers = {"retry-after": "1"} if status == 503 else None
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)
