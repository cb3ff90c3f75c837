"""Prometheus metrics as snapshots: a scrape sees one state whole, and nothing that is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coalmine.incidents import Incident

__all__ = [
    "MAX_FEATURES",
    "OTHER",
    "SnapshotCollector",
    "capped",
    "counter",
    "gauge",
    "health_metrics",
    "incident_metrics",
]

#: Features with series of their own; those after them in the card share `OTHER`, the largest value.
MAX_FEATURES = 100
OTHER = "__other__"

Samples = Iterable[tuple[Sequence[str], float]]


class SnapshotCollector(Collector):
    """Shows what was last published, in a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._metrics: tuple[Metric, ...] = ()
        self.registry = registry or CollectorRegistry()
        self.registry.register(self)

    def publish(self, metrics: Iterable[Metric]) -> None:
        """Replace everything that is shown."""
        self._metrics = tuple(metrics)

    def amend(self, metrics: Iterable[Metric]) -> None:
        """Replace what is shown under the names of these, and leave the rest as it is."""
        named = {metric.name: metric for metric in metrics}
        kept = (metric for metric in self._metrics if metric.name not in named)
        self._metrics = (*kept, *named.values())

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def gauge(name: str, text: str, *, labels: Sequence[str], samples: Samples) -> Metric:
    """A gauge with its samples."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(list(values), value)
    return family


def counter(name: str, text: str, *, labels: Sequence[str], samples: Samples) -> Metric:
    """A counter with its samples; `name` ends in `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(list(values), value)
    return family


def health_metrics(
    here: Sequence[str], *, evaluated_to: float, failures: int, lag_batches: int | None
) -> list[Metric]:
    """How a monitor itself is doing; `here` is its model, revision and name.

    None for the lag: the log does not say.
    """
    labels = ("model_name", "revision", "monitor")
    numbers = {
        "coalmine_last_evaluation_timestamp_seconds": (
            "Record time up to which records are judged.", evaluated_to,
        ),
        "coalmine_monitor_lag_batches": (
            "Batches in the log that are not consumed.", lag_batches,
        ),
    }  # fmt: skip
    metrics = [
        gauge(name, text, labels=labels, samples=[(here, value)])
        for name, (text, value) in numbers.items()
        if value is not None
    ]
    name, text = "coalmine_monitor_errors_total", "Steps that failed."
    return [*metrics, counter(name, text, labels=labels, samples=[(here, failures)])]


def incident_metrics(
    incidents: Iterable[Incident], *, model: str, version: str | None, monitor: str, kind: str
) -> list[Metric]:
    """`coalmine_incident_open`, its onset, and `coalmine_incidents_total`.

    The feature is the one the incident was opened for: an alert must not change its name, and so be
    another alert, when the ranking changes.
    """
    totals: dict[str, int] = {version or "": 0}
    is_open: dict[tuple[str, str], int] = {(version or "", ""): 0}
    onsets: dict[tuple[str, str], float] = {}
    for incident in incidents:
        totals[incident.model_version] = totals.get(incident.model_version, 0) + 1
        if incident.closed_at is None:
            series = (incident.model_version, _opened_for(incident))
            is_open[series] = 1
            onsets[series] = incident.onset_at
    labels = ("model_name", "revision", "monitor", "kind")
    return [
        gauge(
            "coalmine_incident_open",
            "1 while an incident is open.",
            labels=(*labels, "feature"),
            samples=[
                ((model, revision, monitor, kind, feature), value)
                for (revision, feature), value in sorted(is_open.items())
            ],
        ),
        gauge(
            "coalmine_incident_onset_timestamp_seconds",
            "Since when the world is different, for open incidents.",
            labels=(*labels, "feature"),
            samples=[
                ((model, revision, monitor, kind, feature), at)
                for (revision, feature), at in sorted(onsets.items())
            ],
        ),
        counter(
            "coalmine_incidents_total",
            "Incidents opened so far.",
            labels=labels,
            samples=[
                ((model, revision, monitor, kind), n) for revision, n in sorted(totals.items())
            ],
        ),
    ]


def _opened_for(incident: Incident) -> str:
    """The feature that came first when the incident was opened; empty if none is named."""
    return str(incident.evidence.get("first_feature", ""))


def capped(names: Sequence[str], values: Mapping[str, float]) -> list[tuple[str, float]]:
    """One value per feature, bounded in number."""
    shown = [(name, values[name]) for name in names[:MAX_FEATURES] if name in values]
    rest = [values[name] for name in names[MAX_FEATURES:] if name in values]
    return [*shown, (OTHER, max(rest))] if rest else shown
