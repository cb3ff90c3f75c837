"""The drift monitor as a service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.modeldir import Column, ModelCard
from coalmine.records import RecordLog
from coalmine.spec import ServiceSpec
from coalmine.web import SpanQuery
from coalmine_monitors._alerts import AlertSender
from coalmine_monitors._catalog import Catalog, Deployed
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._state import StateStore
from coalmine_monitors._web import monitor_app
from coalmine_monitors._windows import Detector, WindowMonitor
from coalmine_monitors.drift._accompanied import Accompanied, Stream, make_streams
from coalmine_monitors.drift._build import build_reference, build_segments
from coalmine_monitors.drift._classes import label_shift_of
from coalmine_monitors.drift._detector import DriftDetector
from coalmine_monitors.drift._joint import watch_together
from coalmine_monitors.drift._metrics import drift_metrics

__all__ = ["create_drift_app", "fit_detector", "watched_columns"]

#: Versions whose fitted reference is kept: the stable one and the next.
_FITTED = 2

_log = logging.getLogger(__name__)


def create_drift_app(
    service: ServiceSpec,
    *,
    log: RecordLog,
    state: Path,
    models: Path,
    clock: Clock = SYSTEM_CLOCK,
) -> FastAPI:
    """The app: `GET /v1/drift`, `/v1/incidents`, `/metrics`, `/healthz`.

    `state` is its SQLite file, `models` the directory with a model directory per version. The
    caller opens and closes the log.
    """
    spec = service.monitors.drift
    store = StateStore(state)
    warnings: dict[str, tuple[str, ...]] = {}
    fitted: dict[str, Callable[[], DriftDetector]] = {}

    def build(deployed: Deployed) -> Detector:
        # A step that failed is done again from disk: what was fitted to the reference stays good.
        if deployed.version not in fitted:
            fitted[deployed.version] = fit_detector(deployed, service)
            for old in list(fitted)[:-_FITTED]:
                del fitted[old]
        detector = fitted[deployed.version]()
        streams, refused = _streams(deployed, service)
        said = (*detector.warnings, *refused)
        for warning in said:
            _log.warning("drift: version %s: %s", deployed.version, warning)
        warnings[deployed.version] = said
        if not streams:
            return detector
        return Accompanied(detector, streams)

    monitor = WindowMonitor(
        "drift",
        model=service.name,
        log=log,
        store=store,
        catalog=Catalog(models, clock=clock),
        clock=clock,
        build=build,
        shown=lambda version, detector: drift_metrics(service.name, version, detector),
    )
    alerts = AlertSender(
        service.monitors.alerts,
        monitor="drift",
        state=state,
        clock=clock,
        registry=monitor.metrics.registry,
    )
    app = monitor_app(monitor, store=store, title="drift monitor", alerts=alerts)

    @app.get("/v1/drift")
    def drift(
        span: SpanQuery,
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
        version: str | None = None,
    ) -> dict[str, Any]:
        return {
            "windows": store.history(limit=limit, version=version, **span._asdict()),
            "evaluated_to": monitor.evaluated_to,
            "window_rows": spec.window_rows,
            "window_seconds": spec.window,
            "expected_run_length": spec.expected_run_length,
            "min_effect": spec.min_effect,
            "warnings": dict(warnings),
        }

    return app


def fit_detector(deployed: Deployed, service: ServiceSpec) -> Callable[[], DriftDetector]:
    """What makes detectors of a version; UnusableReferenceError if nothing can be compared with."""
    if deployed.card is None or deployed.reference is None:
        raise UnusableReferenceError("there is no reference.parquet")
    spec, card = service.monitors.drift, deployed.card
    columns = watched_columns(card, service)
    calibration: dict[str, Any] = {
        "window_rows": spec.window_rows,
        "min_effect": spec.min_effect,
        "seconds": spec.window,
        "statistics": spec.statistics,
        "season": spec.season,
    }
    together = watch_together(columns, names=spec.multivariate, min_effect=spec.min_effect)
    reference = build_reference(deployed.reference, columns, extend=together, **calibration)
    known = {column.name: column for column in (*card.feature_columns(), *card.output_columns())}
    by = []
    for segment in service.monitors.segments:
        if segment.feature not in known:
            raise UnusableReferenceError(
                f"monitors.segments: the model has no column {segment.feature!r}"
            )
        by.append((segment, known[segment.feature]))
    alone = spec.reference.by
    chosen = [pair for pair in by if alone in (None, pair[0].feature)]
    segments = build_segments(
        deployed.reference, columns, chosen, alone=alone is not None, **calibration
    )
    return partial(
        DriftDetector,
        reference,
        window_rows=spec.window_rows,
        seconds=spec.window,
        run_length=spec.expected_run_length,
        segments=segments,
        label_shift=label_shift_of(card, deployed.reference),
    )


def _streams(deployed: Deployed, service: ServiceSpec) -> tuple[list[Stream], list[str]]:
    if deployed.card is None or deployed.reference is None:
        return [], []
    columns = (*deployed.card.feature_columns(), *deployed.card.output_columns())
    known = {column.name: column for column in columns}
    return make_streams(service.monitors.online, known, deployed.reference)


def watched_columns(card: ModelCard, service: ServiceSpec) -> tuple[Column, ...]:
    """Features that may drift, then the predictions.

    Checks of sensors are left to the quality monitor. Of the outputs the class is watched, where
    there is one: its probabilities say the same again, one column per class.
    """
    checks = {feature.name for feature in service.features if feature.role == "sensor_check"}
    features = tuple(column for column in card.feature_columns() if column.name not in checks)
    outputs = card.output_columns()
    classes = tuple(column for column in outputs if column.type == "categorical")
    return features + (classes or outputs)
