"""What Prometheus is told of a detector, under the names of the drift monitor's."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from coalmine_alibi._check import Plan
from coalmine_alibi._detector import AlibiDetector
from coalmine_monitors.extension import capped, counter, gauge

__all__ = ["metrics_of"]


def metrics_of(
    plan: Plan, detector: AlibiDetector, *, model: str, version: str
) -> Iterable[Metric]:
    """The metrics of the last judged window."""
    here = (model, version, f"alibi/{plan.name}")
    labels = ("model_name", "revision", "monitor")
    yield counter(
        "coalmine_monitor_skipped_rows_total",
        "Rows that the detector cannot read, as where a value is missing.",
        labels=labels,
        samples=[(here, detector.skipped)],
    )
    per_window = plan.window_rows if plan.entry.kind == "online" else 1
    yield gauge(
        "coalmine_expected_run_length_windows",
        "Windows between two false alarms, at least.",
        labels=labels,
        samples=[(here, plan.run_length / per_window)],
    )
    report = detector.report
    if not report:
        return
    names = [column.name for column in detector.columns]
    of_feature = report["feature_statistic"]
    for key, name, text in (
        ("score", "coalmine_drift_score", "What the detector says of the last window."),
        ("threshold", "coalmine_drift_threshold", "Score that counts as an effect."),
    ):
        values = {feature: numbers[key] for feature, numbers in report["features"].items()}
        samples = [
            ((*here, feature, of_feature), value) for feature, value in capped(names, values)
        ]
        whole = ((*here, "", plan.detector.lower()), report[key])
        yield gauge(name, text, labels=(*labels, "feature", "statistic"), samples=[*samples, whole])
    if "p_value" in report:
        yield gauge(
            "coalmine_drift_pvalue",
            "Of the last window; rows that depend on each other make it too small.",
            labels=labels,
            samples=[(here, report["p_value"])],
        )
