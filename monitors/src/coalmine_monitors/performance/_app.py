"""The performance monitor as a service."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.modeldir import ModelDirectoryError, load_card
from coalmine.records import RecordLog
from coalmine.spec import PerformanceSpec, ServiceSpec
from coalmine.web import SpanQuery
from coalmine_monitors._alerts import AlertSender
from coalmine_monitors._catalog import Catalog
from coalmine_monitors._state import StateStore
from coalmine_monitors._web import monitor_app
from coalmine_monitors.performance import (
    _blocks,
    _callers,
    _estimates,
    _join,
    _maturity,
    _predictions,
    _scores,
)
from coalmine_monitors.performance._blocks import LATENCY_EDGES_US, read_blocks, read_pairs
from coalmine_monitors.performance._monitor import PerformanceMonitor
from coalmine_monitors.performance._objective import suited_metric
from coalmine_monitors.performance._predictions import with_predictions
from coalmine_monitors.performance._reign import Reign
from coalmine_monitors.performance._schema import Evidence, Performance
from coalmine_monitors.performance._scoring import arm_differences, read_scoring, segments_of
from coalmine_monitors.performance._summary import summarise

__all__ = ["create_performance_app"]

#: Blocks shorter than this would be mostly empty, and a length of 0 is none.
_SHORTEST_BLOCK = 0.1
#: Windows that `GET /v1/performance` gives at most, per arm.
_WINDOWS = 300


def create_performance_app(
    service: ServiceSpec,
    *,
    log: RecordLog,
    state: Path,
    models: Path,
    clock: Clock = SYSTEM_CLOCK,
) -> FastAPI:
    """The app: `GET /v1/evidence`, `/v1/performance`, `/v1/incidents`, `/metrics`, `/healthz`.

    `state` is its SQLite file, `models` the directory with a model directory per version. The
    caller opens and closes the log.
    """
    spec = service.monitors.performance
    block_s = max(spec.block, _SHORTEST_BLOCK)
    parts = (_blocks, _callers, _join, _maturity, _predictions, _estimates, _scores)
    store = StateStore(state, tables="".join(part.TABLES for part in parts))
    monitor = PerformanceMonitor(
        spec,
        model=service.name,
        log=log,
        store=store,
        catalog=Catalog(models, clock=clock),
        clock=clock,
        block_s=block_s,
        segments=service.monitors.segments,
    )
    alerts = AlertSender(
        service.monitors.alerts,
        monitor="performance",
        state=state,
        clock=clock,
        registry=monitor.metrics.registry,
    )
    app = monitor_app(monitor, store=store, title="performance monitor", alerts=alerts)

    @app.get("/v1/evidence")
    def evidence(asked: SpanQuery) -> Evidence:
        since, until = max(asked.since, 0.0), asked.until
        with store.reading() as connection:
            body = store.body(connection)
            evaluated_to = float(body.get("evaluated_to", 0.0))
            # Only blocks that are over: what is listed grows by late labels and late records alone.
            limit = min(until, evaluated_to - block_s)
            blocks = read_blocks(connection, since=since, until=limit, block_s=block_s)
            names, counted = with_predictions(connection, blocks, block_s=block_s)
            callers = _callers.read_callers(connection, since=since, until=limit + block_s)
            pairs = read_pairs(connection, since=since, until=limit, block_s=block_s)
        instances = sum(block.instances for block in blocks)
        labelled = sum(block.labelled for block in blocks)
        return Evidence(
            evaluated_to=evaluated_to,
            block_s=block_s,
            latency_edges_us=tuple(LATENCY_EDGES_US.tolist()),
            blocks=counted,
            prediction_names=names,
            pairs=tuple(pairs),
            callers=tuple(callers),
            label_coverage=labelled / instances if instances else None,
        )

    @app.get("/v1/performance")
    def performance(
        asked: SpanQuery,
        version: str | None = None,
        window: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
        segment: str = "",
    ) -> Performance:
        since, until = asked
        span = {"since": since, "until": until, "block_s": block_s}
        with store.reading() as connection:
            body = store.body(connection)
            stable = body.get("stable", {}).get("version")
            shown = version or stable
            evaluated_to = float(body.get("evaluated_to", 0.0))
            mature_to = evaluated_to - spec.maturity if spec.maturity else math.inf
            if shown is None:
                return nothing(evaluated_to)
            blocks = read_blocks(connection, version=shown, **span)
            expected = _estimates.read_expected(
                connection, version=shown, since=since, block_s=block_s
            )
            scoring = read_scoring(connection, version=shown, segment=segment, **span)
            segments = segments_of(connection, version=shown)
            differences = arm_differences(
                connection,
                stable=shown,
                since=since,
                until=min(until, mature_to),
                block_s=block_s,
                segment=segment,
            )
        calibration = monitor.calibrations.of(shown)
        reigns = [
            Reign.restored(state, spec=spec, block_s=block_s, calibration=calibration)
            for state in body.get("reigns", ())
            if state["version"] == shown
        ]
        detector = reigns[-1].detector if reigns else None
        objective = reigns[-1].objective if reigns else None
        log_evidence, needed = (0.0, 0.0) if detector is None else detector.log_evidence
        check = reigns[-1].check if reigns else None
        estimates = _estimates.Estimates(expected, calibration=calibration, check=check)
        length = _window_blocks(
            blocks[-1].time - blocks[0].time if blocks else 0.0, block_s, window
        )
        return Performance(
            version=shown,
            task=None if scoring is None else scoring.task.kind,
            segment=segment,
            segments=segments,
            metric=spec.metric if objective is None else objective.metric,
            problem=None if objective or not reigns else _unwatched(models / shown, spec),
            baseline=None if objective is None else objective.baseline,
            threshold=None if objective is None else objective.threshold,
            evaluated_to=evaluated_to,
            log_evidence=log_evidence,
            log_evidence_threshold=needed,
            estimate_valid=estimates.valid,
            windows=tuple(
                summarise(
                    blocks,
                    block_s=block_s,
                    blocks_per_window=length,
                    scoring=scoring,
                    estimates=estimates,
                    mature_to=mature_to,
                )
            ),
            differences=differences,
        )

    def nothing(evaluated_to: float) -> Performance:
        return Performance(
            version=None,
            baseline=None,
            threshold=None,
            evaluated_to=evaluated_to,
            log_evidence=0.0,
            log_evidence_threshold=0.0,
            estimate_valid=None,
            windows=(),
        )

    return app


def _window_blocks(span: float, block_s: float, window: float | None) -> int:
    """Blocks per window: as asked, else the fewest that keep the answer short."""
    shortest = math.ceil((span / block_s + 1) / _WINDOWS)
    return max(shortest, round((window or 0.0) / block_s), 1)


def _unwatched(directory: Path, spec: PerformanceSpec) -> str:
    """Why nothing is watched of a version, and what to do about it."""
    told = f"nothing is watched: model.yaml of version {directory.name}"
    try:
        card = load_card(directory)
    except ModelDirectoryError as error:
        return f"{told} did not come: {error}"
    metric = suited_metric(card, spec)
    if metric not in card.metrics:
        return (
            f"{told} has no `metrics.{metric}` of its evaluation; write it there, or choose "
            "another monitors.performance.metric"
        )
    return (
        f"{told} has a `metrics.{metric}` of {card.metrics[metric]:g}, for which "
        "monitors.performance.margin is none: give one, of accuracy less than 1"
    )
