"""What a model server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coalmine.records import SpoolStats

__all__ = ["ServerMetrics"]

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_PROTOCOLS = ("v1", "v2", "grpc")


class ServerMetrics:
    """One arm's metrics. The children of each label set are made once: a look-up costs more."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model_name: str,
        revision: str,
        arm: str,
    ) -> None:
        self._registry = registry
        arm_labels = {"model_name": model_name, "revision": revision, "arm": arm}
        names = tuple(arm_labels)
        self._requests = Counter(
            "coalmine_requests_total",
            "Inference requests answered, by HTTP status (also of gRPC calls).",
            (*names, "protocol", "status"),
            registry=registry,
        )
        duration = Histogram(
            "coalmine_request_duration_seconds",
            "From the end of the request's body to the start of the response.",
            (*names, "protocol"),
            registry=registry,
            buckets=_SECONDS,
        )
        self._durations = {p: duration.labels(*arm_labels.values(), p) for p in _PROTOCOLS}
        self._rows = Histogram(
            "coalmine_batch_rows",
            "Rows of the batch a request was run in.",
            names,
            registry=registry,
            buckets=_ROWS,
        ).labels(*arm_labels.values())
        self._queue = Histogram(
            "coalmine_queue_duration_seconds",
            "Time a request waited for a runner.",
            names,
            registry=registry,
            buckets=_SECONDS,
        ).labels(*arm_labels.values())
        shed = Counter(
            "coalmine_requests_shed_total",
            "Requests refused since the server had too much to do.",
            (*names, "reason"),
            registry=registry,
        )
        self._shed = {
            reason: shed.labels(*arm_labels.values(), reason) for reason in ("concurrency", "queue")
        }
        self._labels = arm_labels
        self._answered: dict[tuple[str, int], Counter] = {}

    def answered(self, protocol: str, status: int, seconds: float) -> None:
        """Count one request."""
        counter = self._answered.get((protocol, status))
        if counter is None:
            counter = self._requests.labels(*self._labels.values(), protocol, str(status))
            self._answered[protocol, status] = counter
        counter.inc()
        self._durations[protocol].observe(seconds)

    def batched(self, rows: int, queue_seconds: float) -> None:
        """Note the batch a request was run in."""
        self._rows.observe(rows)
        self._queue.observe(queue_seconds)

    def shed(self, reason: str) -> None:
        """Count a request that was refused."""
        self._shed[reason].inc()

    def watch_records(self, stats: Callable[[], SpoolStats]) -> None:
        """Show the account of the record emitter, read when Prometheus asks."""
        self._registry.register(_RecordsCollector(stats, self._labels))

    def watch_load(self, *, inflight: Callable[[], int], queued_rows: Callable[[], int]) -> None:
        """Show what is being answered and what waits, read when Prometheus asks."""
        for name, text, read in (
            ("coalmine_inflight_requests", "Inference requests being answered now.", inflight),
            ("coalmine_queue_rows", "Rows that wait for the model.", queued_rows),
        ):
            gauge = Gauge(name, text, tuple(self._labels), registry=self._registry)
            gauge.labels(*self._labels.values()).set_function(read)

    def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self._registry)


class _RecordsCollector(Collector):
    def __init__(self, stats: Callable[[], SpoolStats], labels: dict[str, str]) -> None:
        self._stats = stats
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        names, values = tuple(self._labels), tuple(self._labels.values())
        emitted = CounterMetricFamily(
            "coalmine_records_emitted", "Record rows given to the emitter.", labels=names
        )
        emitted.add_metric(values, stats.emitted_rows)
        pending = GaugeMetricFamily(
            "coalmine_records_pending", "Record rows the collector has not got yet.", labels=names
        )
        pending.add_metric(values, stats.pending_rows)
        dropped = CounterMetricFamily(
            "coalmine_records_dropped", "Record rows lost.", labels=(*names, "reason")
        )
        for reason, rows in stats.dropped.items():
            dropped.add_metric((*values, reason), rows)
        return (emitted, pending, dropped)
