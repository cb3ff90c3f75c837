"""The data-quality monitor as a service."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from fastapi import FastAPI, Query
from prometheus_client.core import Metric

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records import RecordLog
from coalmine.spec import ServiceSpec
from coalmine.web import SpanQuery
from coalmine_monitors._alerts import AlertSender
from coalmine_monitors._catalog import Catalog, Deployed
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._metrics import OTHER, capped, gauge
from coalmine_monitors._state import StateStore
from coalmine_monitors._web import monitor_app
from coalmine_monitors._windows import Detector, WindowMonitor
from coalmine_monitors.quality._detector import QualityDetector
from coalmine_monitors.quality._rules import build_rules
from coalmine_monitors.quality._stream import TIME, VOLUME, StreamChecks

__all__ = ["create_quality_app"]


def create_quality_app(
    service: ServiceSpec,
    *,
    log: RecordLog,
    state: Path,
    models: Path,
    clock: Clock = SYSTEM_CLOCK,
) -> FastAPI:
    """The app: `GET /v1/quality`, `/v1/incidents`, `/metrics`, `/healthz`.

    `state` is its SQLite file, `models` the directory with a model directory per version. The
    caller opens and closes the log.
    """
    spec = service.monitors.quality
    store = StateStore(state)

    def build(deployed: Deployed) -> Detector:
        if deployed.card is None:
            raise UnusableReferenceError("there is no model.yaml")
        columns = deployed.card.feature_columns()
        rules = build_rules(
            columns, service.features, deployed.reference, window_rows=spec.window_rows
        )
        stream = StreamChecks(
            columns,
            interval_s=spec.volume_interval,
            factor=spec.volume_factor,
            remembered=spec.window_rows,
        )
        return QualityDetector(
            columns,
            rules,
            window_rows=spec.window_rows,
            consecutive=spec.consecutive,
            stream=stream,
        )

    monitor = WindowMonitor(
        "data_quality",
        model=service.name,
        log=log,
        store=store,
        catalog=Catalog(models, clock=clock),
        clock=clock,
        build=build,
        shown=lambda version, detector: _metrics(service.name, version, detector),
        look=_look,
    )
    alerts = AlertSender(
        service.monitors.alerts,
        monitor="quality",
        state=state,
        clock=clock,
        registry=monitor.metrics.registry,
    )
    app = monitor_app(monitor, store=store, title="quality monitor", alerts=alerts)

    @app.get("/v1/quality")
    def quality(
        span: SpanQuery,
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
        version: str | None = None,
    ) -> dict[str, Any]:
        return {
            "windows": store.history(limit=limit, version=version, **span._asdict()),
            "evaluated_to": monitor.evaluated_to,
            "window_rows": spec.window_rows,
            "consecutive": spec.consecutive,
        }

    return app


def _look(detector: Detector, batch: pa.RecordBatch, own: bool) -> None:
    if isinstance(detector, QualityDetector):
        detector.stream.look(batch, own=own)


def _metrics(model: str, version: str, detector: Detector) -> Iterable[Metric]:
    if not detector.report or not isinstance(detector, QualityDetector):
        return
    names = [column.name for column in detector.columns]
    here = (model, version, "data_quality")
    labels = ("model_name", "revision", "monitor", "feature")
    values = dict.fromkeys((TIME, VOLUME, *names), 0.0)
    for fault in detector.report["faults"]:
        # A feature that the model does not know is among the others.
        name = fault["feature"] if fault["feature"] in values else OTHER
        values[name] = values.get(name, 0.0) + 1
    shown = [*capped(names, values)]
    shown += [(name, values[name]) for name in (TIME, VOLUME, OTHER) if name in values]
    yield gauge(
        "coalmine_quality_faults",
        "Limits that the feature, or the stream, broke in the last window.",
        labels=labels,
        samples=[((*here, feature), value) for feature, value in dict(shown).items()],
    )
    missing = dict(zip(names, detector.missing.tolist(), strict=True))
    yield gauge(
        "coalmine_missing_ratio",
        "Share of the feature's values that were missing in the last window.",
        labels=labels,
        samples=[((*here, feature), value) for feature, value in capped(names, missing)],
    )
