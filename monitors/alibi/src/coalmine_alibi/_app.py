"""The service: a monitor per detector of the service file, and one set of answers for them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.incidents import Incident
from coalmine.records import RecordLog
from coalmine.spec import ServiceSpec
from coalmine.web import SpanQuery, answer_errors
from coalmine_alibi._build import build_detector
from coalmine_alibi._check import Plan, check
from coalmine_alibi._detector import AlibiDetector
from coalmine_alibi._shown import metrics_of
from coalmine_monitors.extension import (
    AlertSender,
    Catalog,
    Deployed,
    Detector,
    StateStore,
    UnusableReferenceError,
    WindowMonitor,
    Worker,
    matrix,
    watched_columns,
)

__all__ = ["create_alibi_app"]


@dataclass(frozen=True)
class _Watch:
    plan: Plan
    monitor: WindowMonitor
    store: StateStore


class _Together(Collector):
    """The families of all monitors, each once with the samples of all."""

    def __init__(self, watches: Sequence[_Watch]) -> None:
        self._watches = watches

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for watch in self._watches:
            for metric in watch.monitor.metrics.collect():
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                family.samples.extend(metric.samples)
        return families.values()


def create_alibi_app(
    service: ServiceSpec,
    *,
    log: RecordLog,
    state: Path,
    models: Path,
    clock: Clock = SYSTEM_CLOCK,
) -> FastAPI:
    """The app: `GET /v1/alibi`, `/v1/incidents`, `/metrics`, `/healthz`.

    `state` is a directory with a SQLite file per detector, `models` the one with a model directory
    per version. The caller opens and closes the log. AlibiConfigError if the file asks for what
    cannot be.
    """
    watches = [
        _watch(plan, service, log=log, state=state, models=models, clock=clock)
        for plan in check(service)
    ]

    registry = CollectorRegistry()
    registry.register(_Together(watches))
    alerts = AlertSender(
        service.monitors.alerts,
        monitor="alibi",
        state=state / "alibi.db",
        clock=clock,
        registry=registry,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        workers = [Worker(watch.monitor, name=f"alibi/{watch.plan.name}") for watch in watches]
        for worker in workers:
            worker.start()
        telling = asyncio.create_task(alerts.run(lambda: _open(watches)), name="alibi alerts")
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait({telling})
            await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in workers))
            for worker, watch in zip(workers, watches, strict=True):
                if not worker.alive:
                    await asyncio.to_thread(watch.store.close)

    app = FastAPI(title="coalmine alibi monitors", lifespan=lifespan)

    answer_errors(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "monitors": [watch.plan.name for watch in watches]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    # Not async: they read SQLite, so they belong in the pool of threads.
    @app.get("/v1/incidents")
    def incidents(span: SpanQuery, open: bool = False) -> dict[str, Any]:
        found = [
            item.model_dump(mode="json")
            for watch in watches
            for item in watch.store.incidents(only_open=open, **span._asdict())
        ]
        found.sort(key=lambda item: -item["opened_at"])
        # The slowest of them: what came before has been judged by all.
        judged = min(watch.monitor.evaluated_to for watch in watches)
        return {"incidents": found, "evaluated_to": judged}

    @app.get("/v1/alibi")
    def windows(
        span: SpanQuery,
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
        version: str | None = None,
    ) -> dict[str, Any]:
        return {"monitors": {
            watch.plan.name: {
                "detector": watch.plan.detector,
                "window_rows": watch.plan.window_rows,
                "expected_run_length": watch.plan.run_length,
                "evaluated_to": watch.monitor.evaluated_to,
                "windows": watch.store.history(limit=limit, version=version, **span._asdict()),
            }
            for watch in watches
        }}  # fmt: skip

    return app


def _open(watches: Sequence[_Watch]) -> list[Incident]:
    return [item for watch in watches for item in watch.store.incidents(only_open=True)]


def _watch(
    plan: Plan, service: ServiceSpec, *, log: RecordLog, state: Path, models: Path, clock: Clock
) -> _Watch:
    store = StateStore(state / f"alibi-{plan.name}.db")

    def build(deployed: Deployed) -> Detector:
        if deployed.card is None or deployed.reference is None:
            raise UnusableReferenceError("there is no reference.parquet")
        columns = watched_columns(deployed.card, service)
        return build_detector(plan, columns, matrix(deployed.reference, columns))

    def shown(version: str, detector: Detector) -> Iterable[Metric]:
        assert isinstance(detector, AlibiDetector)
        return metrics_of(plan, detector, model=service.name, version=version)

    monitor = WindowMonitor(
        "drift",
        name=f"alibi/{plan.name}",
        model=service.name,
        log=log,
        store=store,
        catalog=Catalog(models, clock=clock),
        clock=clock,
        build=build,
        shown=shown,
    )
    return _Watch(plan, monitor, store)
