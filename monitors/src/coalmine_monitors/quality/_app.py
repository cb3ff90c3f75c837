"""The data-quality monitor as a service."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from prometheus_client.core import Metric

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records import RecordLog
from coalmine.spec import ServiceSpec
from coalmine_monitors._alerts import AlertSender
from coalmine_monitors._catalog import Catalog, Deployed
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._metrics import capped, gauge
from coalmine_monitors._state import StateStore
from coalmine_monitors._web import monitor_app
from coalmine_monitors._windows import Detector, WindowMonitor
from coalmine_monitors.quality._detector import QualityDetector
from coalmine_monitors.quality._rules import build_rules

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
        return QualityDetector(
            columns, rules, window_rows=spec.window_rows, consecutive=spec.consecutive
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
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
        version: str | None = None,
        since: float = -math.inf,
        until: float = math.inf,
    ) -> dict[str, Any]:
        return {
            "windows": store.history(limit=limit, version=version, since=since, until=until),
            "evaluated_to": monitor.evaluated_to,
            "window_rows": spec.window_rows,
            "consecutive": spec.consecutive,
        }

    return app


def _metrics(model: str, version: str, detector: Detector) -> Iterable[Metric]:
    if not detector.report:
        return
    names = [column.name for column in detector.columns]
    values = dict.fromkeys(names, 0.0)
    for fault in detector.report["faults"]:
        values[fault["feature"]] += 1
    yield gauge(
        "coalmine_quality_faults",
        "Limits that the feature broke in the last window.",
        labels=("model_name", "revision", "monitor", "feature"),
        samples=[
            ((model, version, "data_quality", feature), value)
            for feature, value in capped(names, values)
        ],
    )
