"""The collector: HTTP in front of a record log. The only module here that knows HTTP.

| route | 200 | else |
|---|---|---|
| `POST /v1/records` | `{"offset"}`, once durable | 400 malformed, 413, 429 behind, 503 no space |
| `POST /v1/labels` | `{"accepted", "repeated", "corrected", "unknown"}` | 400, 413, 503 |
| `POST /v1/events` | KServe's logger: what became of the events, by fate | 400, 413, 429, 503 |
| `GET /v1/records/stats` | `{"rows", "batches", "labels", "bytes", "emitters"}` | 503 |
| `GET /healthz`, `GET /metrics` | | |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from coalmine.clock import Clock
from coalmine.records._batch_intake import BatchIntake, Delivery
from coalmine.records._cloudevents import read_events
from coalmine.records._collector_metrics import CollectorMetrics
from coalmine.records._errors import (
    LogError,
    LogFullError,
    MalformedBatchError,
    MalformedEventError,
    MalformedLabelsError,
    RecordsError,
)
from coalmine.records._event_intake import EventIntake
from coalmine.records._event_window import WindowLimits
from coalmine.records._housekeeping import Retention, keep_house
from coalmine.records._label_files import label_format
from coalmine.records._label_intake import LabelIntake
from coalmine.records._log import RecordLog
from coalmine.records._signatures import Signatures
from coalmine.records._types import BatchId, LabelCounts
from coalmine.web import answer_errors

__all__ = ["create_collector"]

_MAX_BODY = 64 * 1024**2
#: Some fifty million labels; they wait in a temporary file.
_MAX_LABELS = 4 * 1024**3
#: Bodies waiting for the disk; beyond it the log is behind, and emitters keep their records.
_MAX_WAITING = 128 * 1024**2
_RETRY_AFTER = {"retry-after": "1"}

#: The edge's table: domain errors know no HTTP.
_STATUS: dict[type[Exception], int] = {
    MalformedBatchError: 400,
    MalformedEventError: 400,
    MalformedLabelsError: 400,
    LogFullError: 503,
    LogError: 503,
}


class _TooLargeError(Exception):
    pass


class _BehindError(Exception):
    pass


class _Collector:
    """The routes' work, and what waits for the disk."""

    def __init__(
        self, log: RecordLog, *, clock: Clock, metrics: CollectorMetrics, intake: EventIntake
    ) -> None:
        self._log = log
        self._intake = intake
        self._labels = LabelIntake(log, clock=clock)
        self._clock = clock
        self._metrics = metrics
        self._batches = BatchIntake(log)
        self._waiting = 0

    async def append(self, scope: Scope, receive: Receive) -> int:
        headers = dict(scope["headers"])
        batch_id = _batch_id(headers)
        dropped = _dropped(headers)
        body = await _body(Request(scope, receive))
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        with self._waiting_for(len(body)), self._metrics.appending():
            offset = await self._batches.append(Delivery(body, kind.lower(), batch_id, dropped))
        self._metrics.appended(batch_id.rows)
        return offset

    async def label(self, request: Request) -> LabelCounts:
        # What a client that says nothing of it sends, curl's --data among them, is JSON.
        said = request.headers.get("content-type", "")
        unsaid = said.partition(";")[0] in ("", "application/x-www-form-urlencoded")
        format = "json" if unsaid else label_format(said)
        counts = await self._labels.take(_parts(request, limit=_MAX_LABELS), format)
        self._metrics.labelled(counts)
        return counts

    async def take_events(self, request: Request) -> dict[str, int]:
        body = await _body(request)
        with self._waiting_for(len(body)):
            events = read_events(body, request.headers, now=self._clock.time())
            return await self._intake.take(events)

    @contextmanager
    def _waiting_for(self, size: int) -> Iterator[None]:
        """Bytes that wait for the disk; _BehindError if they are too many."""
        if self._waiting and self._waiting + size > _MAX_WAITING:
            raise _BehindError("the log is behind; keep the records and send them again")
        self._waiting += size
        try:
            yield
        finally:
            self._waiting -= size

    async def stats(self) -> dict[str, object]:
        return asdict(await asyncio.to_thread(self._log.stats))

    async def exposition(self) -> bytes:
        self._metrics.sized(await asyncio.to_thread(self._log.stats))
        return generate_latest(self._metrics.registry)

    def close(self) -> None:
        """Append what waits. Blocks."""
        self._batches.close()


class _AppendRoute:
    """`POST /v1/records`, bare."""

    def __init__(self, collector: _Collector, metrics: CollectorMetrics) -> None:
        self._collector = collector
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._metrics.counting("records"):
            offset = await self._collector.append(scope, receive)
        body = b'{"offset":%d}' % offset
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def create_collector(
    log: RecordLog,
    *,
    clock: Clock,
    retention: Retention | None = None,
    registry: CollectorRegistry | None = None,
    models: Path | None = None,
    event_window: WindowLimits | None = None,
) -> FastAPI:
    """See `coalmine.records.create_collector`."""
    metrics = CollectorMetrics(registry or CollectorRegistry())
    intake = EventIntake(
        log,
        signatures=Signatures(models),
        clock=clock,
        metrics=metrics,
        limits=event_window or WindowLimits(),
    )
    collector = _Collector(log, clock=clock, metrics=metrics, intake=intake)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beside = [asyncio.create_task(intake.run())]
        if retention is not None:
            beside.append(asyncio.create_task(keep_house(log, retention)))
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await intake.close()
            await asyncio.to_thread(collector.close)

    app = FastAPI(title="Coalmine collector", lifespan=lifespan)
    answer_errors(app)
    for error in (RecordsError, _TooLargeError, _BehindError):
        app.add_exception_handler(error, _answer_error)

    # Not a route of FastAPI's, which costs more than the rest: this one is busy.
    app.router.routes.append(
        Route("/v1/records", _AppendRoute(collector, metrics), methods=["POST"])
    )

    @app.post("/v1/labels")
    async def label(request: Request) -> LabelCounts:
        with metrics.counting("labels"):
            return await collector.label(request)

    @app.post("/v1/events")
    async def take_events(request: Request) -> dict[str, int]:
        with metrics.counting("events"):
            return await collector.take_events(request)

    @app.get("/v1/records/stats")
    async def stats() -> dict[str, object]:
        return await collector.stats()

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def exposition() -> Response:
        return Response(await collector.exposition(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _body(request: Request) -> bytes:
    return b"".join([part async for part in _parts(request, limit=_MAX_BODY)])


async def _parts(request: Request, *, limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _TooLargeError(f"the body is larger than {limit} bytes")
        yield part


def _batch_id(headers: Mapping[bytes, bytes]) -> BatchId:
    try:
        return BatchId.parse(headers.get(b"x-coalmine-batch", b"").decode("latin-1"))
    except ValueError as error:
        raise MalformedBatchError(f"x-coalmine-batch: {error}") from error


def _dropped(headers: Mapping[bytes, bytes]) -> int:
    text = headers.get(b"x-coalmine-dropped", b"0").decode("latin-1")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise MalformedBatchError(f"x-coalmine-dropped: {text[:80]!r} is not a count")
    return int(text)


async def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, _TooLargeError):
        status = 413
    elif isinstance(error, _BehindError):
        status = 429
    else:
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 400)
    headers = _RETRY_AFTER if status in (429, 503) else None
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)
