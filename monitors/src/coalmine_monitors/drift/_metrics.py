"""What the drift monitor shows to Prometheus; the number of series is bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import Metric

from coalmine_monitors._metrics import capped, gauge
from coalmine_monitors._windows import Detector
from coalmine_monitors.drift._accompanied import online_metrics
from coalmine_monitors.drift._classes import class_metrics

__all__ = ["drift_metrics"]

_LABELS = ("model_name", "revision", "monitor")


def drift_metrics(model: str, version: str, detector: Detector) -> Iterable[Metric]:
    """Of the window judged last; none before the first."""
    report = detector.report
    features = report.get("features")
    if not features:
        return
    here, names = (model, version, "drift"), list(features)
    yield from _distances(here, names, features, report["together"])
    if report.get("online"):
        yield from online_metrics(here, report["online"])
    if report["classes"]:
        yield from class_metrics(here, report["classes"])
    evidence = {name: numbers["log_evidence"] for name, numbers in features.items()}
    yield gauge(
        "coalmine_evidence_log",
        "Natural logarithm of the evidence for drift; of no feature: of all together.",
        labels=(*_LABELS, "feature"),
        samples=[
            *(((*here, feature), value) for feature, value in capped(names, evidence)),
            ((*here, ""), report["log_evidence"]),
        ],
    )
    yield gauge(
        "coalmine_evidence_log_threshold",
        "Natural logarithm of the evidence that an incident takes.",
        labels=_LABELS,
        samples=[(here, report["log_evidence_threshold"])],
    )
    yield gauge(
        "coalmine_expected_run_length_windows",
        "Windows between two false alarms, at least.",
        labels=_LABELS,
        samples=[(here, math.exp(report["log_evidence_threshold"]))],
    )
    yield gauge(
        "coalmine_window_observations",
        "Rows of the last window.",
        labels=_LABELS,
        samples=[(here, report["rows"])],
    )
    if report["segments"]:
        yield from _segments(here, report["segments"])


def _distances(
    here: Sequence[str],
    names: Sequence[str],
    features: Mapping[str, Any],
    together: Mapping[str, Any],
) -> Iterable[Metric]:
    labels = (*_LABELS, "feature", "statistic")
    for metric, key, single, text in (
        (
            "coalmine_drift_score", "statistics", "score",
            "Distance from the reference less its bias, last window.",
        ),
        (
            "coalmine_drift_threshold", "thresholds", "threshold",
            "Distance that counts as an effect.",
        ),
    ):  # fmt: skip
        found: dict[str, dict[str, float]] = {}
        for name, numbers in features.items():
            for statistic, value in numbers[key].items():
                found.setdefault(statistic, {})[name] = value
        yield gauge(
            metric,
            text,
            labels=labels,
            samples=[
                ((*here, feature, statistic), value)
                for statistic, values in sorted(found.items())
                for feature, value in capped(names, values)
            ]
            # Of no feature: of all together.
            + [((*here, "", name), numbers[single]) for name, numbers in together.items()],
        )


def _segments(here: Sequence[str], segments: Mapping[str, Any]) -> Iterable[Metric]:
    labels = (*_LABELS, "segment")
    for key, name, text in (
        ("score", "coalmine_drift_segment_score", "Of the feature that drifts most there."),
        ("threshold", "coalmine_drift_segment_threshold", "What that counts as an effect from."),
        ("log_evidence", "coalmine_drift_segment_evidence_log", "Of all features there."),
    ):
        yield gauge(
            name,
            text,
            labels=labels,
            samples=[((*here, segment), numbers[key]) for segment, numbers in segments.items()],
        )
