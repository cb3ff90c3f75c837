"""The performance monitor's metrics."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import Metric

from coalmine.incidents import Incident
from coalmine_monitors._metrics import gauge, health_metrics, incident_metrics
from coalmine_monitors.performance._blocks import read_blocks
from coalmine_monitors.performance._check import EstimateCheck
from coalmine_monitors.performance._estimate import Calibration
from coalmine_monitors.performance._estimates import Estimates, read_expected
from coalmine_monitors.performance._intervals import Level
from coalmine_monitors.performance._reign import Reign
from coalmine_monitors.performance._schema import Measured, PerformanceWindow
from coalmine_monitors.performance._scoring import Scoring, read_scoring
from coalmine_monitors.performance._summary import summarise

__all__ = ["Look", "Numbers", "look", "performance_metrics"]

_LABELS = ("model_name", "revision", "monitor")
#: Seconds of record time that the metrics look back.
SHOWN = 60.0
#: The one metric that is exported of every segment too.
_OF_SEGMENTS = {"classification": "accuracy", "regression": "mae"}


class Numbers(NamedTuple):
    """How the monitor itself is doing."""

    evaluated_to: float
    lag_batches: int
    seconds: float
    failures: int


class Look(NamedTuple):
    """The last rows of a version: one window of each arm, and one metric of each segment."""

    windows: Mapping[str, PerformanceWindow] = {}
    """By arm, of the last `SHOWN` seconds whose labels are mature."""

    guesses: Mapping[str, PerformanceWindow] = {}
    """By arm, of the last `SHOWN` seconds: what is estimated."""

    segments: Mapping[tuple[str, str, str], Measured] = {}
    """By arm, metric and segment."""

    valid: bool | None = None


def look(
    connection: sqlite3.Connection,
    *,
    version: str,
    calibration: Calibration | None,
    check: EstimateCheck | None,
    newest: float,
    mature: float,
    block_s: float,
) -> Look:
    """What there is to say of the rows up to `mature`, and without labels up to `newest`."""
    scoring = read_scoring(
        connection,
        version=version,
        since=mature - SHOWN,
        until=mature,
        block_s=block_s,
        segment=None,
    )
    expected = read_expected(connection, version=version, since=newest - SHOWN, block_s=block_s)
    estimates = Estimates(expected, calibration=calibration, check=check)

    def windows(until: float) -> dict[str, PerformanceWindow]:
        blocks = read_blocks(
            connection, since=until - SHOWN, until=until, block_s=block_s, version=version
        )
        found = {}
        for arm in {block.arm for block in blocks}:
            mine = [block for block in blocks if block.arm == arm]
            # One window that holds them all, wherever they lie.
            count = round((mine[-1].time + block_s) / block_s) + 1
            found[arm] = summarise(
                mine,
                block_s=block_s,
                blocks_per_window=count,
                scoring=scoring if until == mature else None,
                estimates=estimates,
            )[0]
        return found

    realised = windows(mature)
    return Look(
        windows=realised,
        guesses=realised if newest == mature else windows(newest),
        segments={} if scoring is None else _by_segment(scoring),
        valid=estimates.valid,
    )


def _by_segment(scoring: Scoring) -> dict[tuple[str, str, str], Measured]:
    metric = _OF_SEGMENTS[scoring.task.kind]
    found: dict[tuple[str, str, str], Measured] = {}
    for arm, segment in sorted({(cell.arm, cell.segment) for cell in scoring.scores}):
        if not segment:
            continue
        mine = Scoring(scoring.task, scoring.scores, segment)
        part = mine.of(
            cell for cell in scoring.scores if (cell.arm, cell.segment) == (arm, segment)
        )
        measured = mine.measure(part, level=Level(effect=mine.effect(arm))).metrics.get(metric)
        if measured is not None:
            found[arm, metric, segment] = measured
    return found


def performance_metrics(
    *,
    model: str,
    version: str | None,
    look: Look,
    reign: Reign | None,
    incidents: Sequence[Incident],
    numbers: Numbers,
) -> list[Metric]:
    """All metrics; `look` is at the stable version."""
    here = (model, version or "", "accuracy")
    values = {
        "coalmine_evaluation_duration_seconds": ("Duration of the last step.", numbers.seconds),
    }  # fmt: skip
    detector = None if reign is None else reign.detector
    if detector is not None:
        log_evidence, needed = detector.log_evidence
        values |= {
            "coalmine_evidence_log": ("Natural logarithm of the evidence.", log_evidence),
            "coalmine_evidence_log_threshold": ("Evidence an incident takes.", needed),
        }
    if look.valid is not None:
        values["coalmine_performance_estimate_valid"] = (
            "0 while the labels that come contradict the estimates.", float(look.valid),
        )  # fmt: skip
    return [
        *(
            gauge(name, text, labels=_LABELS, samples=[(here, value)])
            for name, (text, value) in values.items()
        ),
        *health_metrics(
            here,
            evaluated_to=numbers.evaluated_to,
            failures=numbers.failures,
            lag_batches=numbers.lag_batches,
        ),
        *incident_metrics(
            incidents, model=model, version=version, monitor="accuracy", kind="accuracy"
        ),
        *_threshold(reign, here=here),
        *_performance(look, here=here),
        *_labels(look, here=here),
    ]


def _threshold(reign: Reign | None, *, here: tuple[str, ...]) -> Iterable[Metric]:
    objective = None if reign is None else reign.objective
    if objective is not None:
        yield gauge(
            "coalmine_performance_threshold",
            "What the metric must not be worse than.",
            labels=(*_LABELS, "metric"),
            samples=[((*here, objective.metric), objective.threshold)],
        )


def _performance(look: Look, *, here: tuple[str, ...]) -> Iterable[Metric]:
    """Every metric by arm, realised and estimated, with its interval."""
    found: dict[tuple[str, str, str, str], Measured] = {}
    for arm, window in look.windows.items():
        for metric, measured in window.metrics.items():
            found[arm, metric, "realised", ""] = measured
    for (arm, metric, segment), measured in look.segments.items():
        found[arm, metric, "realised", segment] = measured
    for arm, window in look.guesses.items():
        if window.estimated is not None:
            found[arm, "accuracy", "estimated", ""] = Measured(
                value=window.estimated, lower=window.estimated_lower, upper=window.estimated_upper
            )
    for suffix, name in (("", "value"), ("_lower", "lower"), ("_upper", "upper")):
        samples = [((*here, *key), getattr(measured, name)) for key, measured in found.items()]
        yield gauge(
            f"coalmine_performance{suffix}",
            "Of the last minute whose labels are mature; estimated: of the last minute, without"
            " labels. With its 95 % interval, which holds however often it is looked at.",
            labels=(*_LABELS, "arm", "metric", "kind", "segment"),
            samples=[(key, value) for key, value in samples if value is not None],
        )


def _labels(look: Look, *, here: tuple[str, ...]) -> Iterable[Metric]:
    shown = {
        "coalmine_label_coverage_ratio": (
            "Labelled share of the rows of the last minute whose labels are mature.",
            {
                arm: window.labelled / window.instances
                for arm, window in look.windows.items()
                if window.instances
            },
        ),
        "coalmine_label_lag_seconds": (
            "Mean time from an answer to its truth, of these rows.",
            {
                arm: window.label_lag_s
                for arm, window in look.windows.items()
                if window.label_lag_s is not None
            },
        ),
    }
    for name, (text, by_arm) in shown.items():
        yield gauge(
            name,
            text,
            labels=(*_LABELS, "arm"),
            samples=[((*here, arm), value) for arm, value in by_arm.items()],
        )
