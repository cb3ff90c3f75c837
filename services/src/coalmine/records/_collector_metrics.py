"""The collector's metrics, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from coalmine.records._types import LabelCounts, LogStats

__all__ = ["CollectorMetrics"]

_APPEND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class CollectorMetrics:
    """What a collector took in, how long the log needed, and how large it is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "coalmine_collector_requests",
            "Deliveries by route and result (ok, error).",
            ("route", "result"),
            registry=registry,
        )
        self._rows = Counter(
            "coalmine_collector_rows", "Record rows acknowledged.", registry=registry
        )
        self._labels = Counter(
            "coalmine_labels", "Labels delivered, by what became of them.", ("fate",),
            registry=registry,
        )  # fmt: skip
        self._events = Counter(
            "coalmine_collector_events",
            "Events of KServe's logger, and calls they made, by what became of them.",
            ("fate",),
            registry=registry,
        )
        self._waiting = Gauge(
            "coalmine_collector_events_waiting",
            "Events of KServe's logger that wait for the other half of their call.",
            registry=registry,
        )
        self._append = Histogram(
            "coalmine_log_append_seconds",
            "From a whole body to its durable append.",
            buckets=_APPEND_BUCKETS,
            registry=registry,
        )
        self._sizes = {
            name: Gauge(f"coalmine_log_{name}", f"{text} in the record log.", registry=registry)
            for name, text in (("rows", "Rows"), ("labels", "Labels"), ("bytes", "Packed bytes"))
        }
        self._dropped = Gauge(
            "coalmine_log_emitter_dropped_rows",
            "Rows that emitters say they could not keep, all emitters.",
            registry=registry,
        )

    def appending(self) -> AbstractContextManager[object]:
        """Times an append."""
        return self._append.time()

    def appended(self, rows: int) -> None:
        """Rows were acknowledged."""
        self._rows.inc(rows)

    def labelled(self, counts: LabelCounts) -> None:
        """Labels were stored."""
        for fate, count in asdict(counts).items():
            self._labels.labels(fate).inc(count)

    def took_events(self, fates: Mapping[str, int]) -> None:
        """Events were taken in."""
        for fate, count in fates.items():
            self._events.labels(fate).inc(count)

    def waiting_events(self, count: int) -> None:
        """So many events wait for their other half."""
        self._waiting.set(count)

    def sized(self, stats: LogStats) -> None:
        """The log was measured."""
        for name, gauge in self._sizes.items():
            gauge.set(getattr(stats, name))
        self._dropped.set(sum(emitter.dropped for emitter in stats.emitters.values()))

    @contextmanager
    def counting(self, route: str) -> Iterator[None]:
        """Counts a delivery by its result."""
        try:
            yield
        except BaseException:
            self._requests.labels(route, "error").inc()
            raise
        self._requests.labels(route, "ok").inc()
