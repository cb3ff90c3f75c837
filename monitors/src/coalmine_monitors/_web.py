"""What all monitors' apps share: the worker in the lifespan, health, metrics, incidents, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from coalmine.web import SpanQuery, answer_errors
from coalmine_monitors._alerts import AlertSender
from coalmine_monitors._metrics import SnapshotCollector
from coalmine_monitors._state import StateStore
from coalmine_monitors._worker import Monitor, Worker

__all__ = ["monitor_app"]


class _Served(Monitor, Protocol):
    metrics: SnapshotCollector

    @property
    def evaluated_to(self) -> float:
        """Record time up to which records are judged."""


def monitor_app(
    monitor: _Served, *, store: StateStore, title: str, alerts: AlertSender | None = None
) -> FastAPI:
    """The app of a monitor, to which its own routes are added; `alerts` tells of its incidents."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = Worker(monitor, name=title)
        worker.start()
        telling = asyncio.create_task(_tell(alerts, store), name=f"{title} alerts")
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait({telling})
            await asyncio.to_thread(worker.stop)
            if not worker.alive:
                await asyncio.to_thread(store.close)

    app = FastAPI(title=f"coalmine {title}", lifespan=lifespan)

    answer_errors(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(monitor.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    # Not async: they read SQLite, so they belong in the pool of threads.
    @app.get("/v1/incidents")
    def incidents(span: SpanQuery, open: bool = False) -> dict[str, Any]:
        found = store.incidents(only_open=open, since=span.since, until=span.until)
        return {
            "incidents": [item.model_dump(mode="json") for item in found],
            "evaluated_to": monitor.evaluated_to,
        }

    return app


async def _tell(alerts: AlertSender | None, store: StateStore) -> None:
    if alerts is not None:
        await alerts.run(lambda: store.incidents(only_open=True))
