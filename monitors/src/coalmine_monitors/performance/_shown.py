"""The performance monitor's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prometheus_client.core import Metric

from coalmine.incidents import Incident
from coalmine_monitors._metrics import counter, gauge, incident_metrics
from coalmine_monitors.performance._accuracy import AccuracyDetector
from coalmine_monitors.performance._estimates import Estimates
from coalmine_monitors.performance._schema import Block, PerformanceWindow
from coalmine_monitors.performance._summary import summarise

__all__ = ["Numbers", "performance_metrics"]

_LABELS = ("model_name", "revision", "monitor")


class Numbers(NamedTuple):
    """How the monitor itself is doing."""

    evaluated_to: float
    lag_batches: int
    seconds: float
    failures: int


def performance_metrics(
    *,
    model: str,
    version: str | None,
    blocks: Sequence[Block],
    block_s: float,
    detector: AccuracyDetector | None,
    estimates: Estimates,
    incidents: Sequence[Incident],
    numbers: Numbers,
) -> list[Metric]:
    """All metrics; `blocks` are the stable version's recent ones."""
    here = (model, version or "", "accuracy")
    metrics = [
        gauge(name, text, labels=_LABELS, samples=[(here, value)])
        for name, text, value in (
            (
                "coalmine_last_evaluation_timestamp_seconds",
                "Record time up to which records are judged.",
                numbers.evaluated_to,
            ),
            (
                "coalmine_monitor_lag_batches",
                "Batches in the log that are not consumed.",
                numbers.lag_batches,
            ),
            ("coalmine_evaluation_duration_seconds", "Duration of the last step.", numbers.seconds),
        )
    ]
    metrics.append(
        counter(
            "coalmine_monitor_errors_total",
            "Steps that failed.",
            labels=_LABELS,
            samples=[(here, numbers.failures)],
        )
    )
    metrics += incident_metrics(
        incidents, model=model, version=version, monitor="accuracy", kind="accuracy"
    )
    metrics += _accuracy(blocks, block_s=block_s, here=here, estimates=estimates)
    if detector is not None:
        log_evidence, needed = detector.log_evidence
        metrics += [
            gauge(name, text, labels=_LABELS, samples=[(here, value)])
            for name, text, value in (
                ("coalmine_evidence_log", "Natural logarithm of the evidence.", log_evidence),
                ("coalmine_evidence_log_threshold", "Evidence an incident takes.", needed),
                ("coalmine_performance_threshold_ratio", "Accuracy to keep.", detector.threshold),
            )
        ]
    return metrics


def _accuracy(
    blocks: Sequence[Block], *, block_s: float, here: tuple[str, ...], estimates: Estimates
) -> list[Metric]:
    """Accuracy by arm over all of `blocks`, realised and estimated, and the labels' coverage."""
    windows: dict[str, PerformanceWindow] = {}
    for arm in sorted({block.arm for block in blocks}):
        mine = [block for block in blocks if block.arm == arm]
        # One window that holds them all, wherever they lie.
        count = round((mine[-1].time + block_s) / block_s) + 1
        windows[arm] = summarise(
            mine, block_s=block_s, blocks_per_window=count, estimates=estimates
        )[0]
    labels = (*_LABELS, "arm", "metric")
    known = {arm: window for arm, window in windows.items() if window.accuracy is not None}
    values = {
        "": {arm: window.accuracy for arm, window in known.items()},
        "_lower": {arm: window.lower for arm, window in known.items()},
        "_upper": {arm: window.upper for arm, window in known.items()},
    }
    metrics = [
        gauge(
            f"coalmine_performance_ratio{suffix}",
            "Realised accuracy of the last minute's labelled rows, with its 95 % interval.",
            labels=labels,
            samples=[((*here, arm, "accuracy"), value or 0.0) for arm, value in of.items()],
        )
        for suffix, of in values.items()
    ]
    guessed = {arm: window for arm, window in windows.items() if window.estimated is not None}
    guesses = {
        "": {arm: window.estimated for arm, window in guessed.items()},
        "_lower": {arm: window.estimated_lower for arm, window in guessed.items()},
        "_upper": {arm: window.estimated_upper for arm, window in guessed.items()},
    }
    metrics += [
        gauge(
            f"coalmine_performance_estimate_ratio{suffix}",
            "Accuracy of the last minute's rows as the model's own confidence tells, without"
            " labels, with its 95 % interval.",
            labels=labels,
            samples=[((*here, arm, "accuracy"), value or 0.0) for arm, value in of.items()],
        )
        for suffix, of in guesses.items()
    ]
    if estimates.valid is not None:
        metrics.append(
            gauge(
                "coalmine_performance_estimate_valid",
                "0 while the labels that come contradict the estimates.",
                labels=_LABELS,
                samples=[(here, float(estimates.valid))],
            )
        )
    metrics.append(
        gauge(
            "coalmine_label_coverage_ratio",
            "Labelled share of the last minute's rows.",
            labels=labels[:4],
            samples=[
                ((*here, arm), window.labelled / window.instances)
                for arm, window in windows.items()
                if window.instances
            ],
        )
    )
    return metrics
