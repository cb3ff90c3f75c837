"""The drift monitor as a service."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from prometheus_client.core import Metric

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.modeldir import Column, ModelCard
from coalmine.records import RecordLog
from coalmine.spec import ServiceSpec
from coalmine_monitors._catalog import Catalog, Deployed
from coalmine_monitors._errors import UnusableReferenceError
from coalmine_monitors._metrics import capped, gauge
from coalmine_monitors._state import StateStore
from coalmine_monitors._web import monitor_app
from coalmine_monitors._windows import Detector, WindowMonitor
from coalmine_monitors.drift._detector import DriftDetector
from coalmine_monitors.drift._reference import build_reference

__all__ = ["create_drift_app", "watched_columns"]


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

    def build(deployed: Deployed) -> Detector:
        if deployed.card is None or deployed.reference is None:
            raise UnusableReferenceError("there is no reference.parquet")
        reference = build_reference(
            deployed.reference,
            watched_columns(deployed.card, service),
            window_rows=spec.window_rows,
            min_effect=spec.min_effect,
        )
        return DriftDetector(
            reference, window_rows=spec.window_rows, run_length=spec.expected_run_length
        )

    monitor = WindowMonitor(
        "drift",
        model=service.name,
        log=log,
        store=store,
        catalog=Catalog(models, clock=clock),
        clock=clock,
        build=build,
        shown=lambda version, detector: _metrics(service.name, version, detector),
    )
    app = monitor_app(monitor, store=store, title="drift monitor")

    @app.get("/v1/drift")
    def drift(
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
        version: str | None = None,
        since: float = -math.inf,
        until: float = math.inf,
    ) -> dict[str, Any]:
        return {
            "windows": store.history(limit=limit, version=version, since=since, until=until),
            "evaluated_to": monitor.evaluated_to,
            "window_rows": spec.window_rows,
            "expected_run_length": spec.expected_run_length,
            "min_effect": spec.min_effect,
        }

    return app


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


def _metrics(model: str, version: str, detector: Detector) -> Iterable[Metric]:
    features = detector.report.get("features")
    if not features:
        return
    labels = ("model_name", "revision", "monitor", "feature")
    names = [column.name for column in detector.columns]
    for key, name, text in (
        ("score", "coalmine_drift_score", "Population stability index less its bias, last window."),
        ("threshold", "coalmine_drift_threshold", "Score that counts as an effect."),
        ("log_evidence", "coalmine_evidence_log", "Natural logarithm of the evidence for drift."),
    ):
        values = {feature: numbers[key] for feature, numbers in features.items()}
        samples = [
            ((model, version, "drift", feature), value) for feature, value in capped(names, values)
        ]
        if key == "log_evidence":
            samples.append(((model, version, "drift", ""), detector.report["log_evidence"]))
        yield gauge(name, text, labels=labels, samples=samples)
    here = (model, version, "drift")
    yield gauge(
        "coalmine_evidence_log_threshold",
        "Natural logarithm of the evidence that an incident takes.",
        labels=labels[:3],
        samples=[(here, detector.report["log_evidence_threshold"])],
    )
    yield gauge(
        "coalmine_expected_run_length_windows",
        "Windows between two false alarms, at least.",
        labels=labels[:3],
        samples=[(here, math.exp(detector.report["log_evidence_threshold"]))],
    )
