"""What a model server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

__all__ = ["ModelMetrics", "ServerMetrics"]

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MODEL = ("model_name", "revision", "arm")
_PROTOCOLS = ("v1", "v2", "grpc")


class ServerMetrics:
    """One server's metrics, of all its models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "coalmine_requests_total",
            "Inference requests answered, by HTTP status (also of gRPC calls).",
            (*_MODEL, "protocol", "status"),
            registry=registry,
        )
        self.durations = Histogram(
            "coalmine_request_duration_seconds",
            "From the end of the request's body to the start of the response.",
            (*_MODEL, "protocol"),
            registry=registry,
            buckets=_SECONDS,
        )
        self.rows = Histogram(
            "coalmine_batch_rows",
            "Rows of the batch a request was run in.",
            _MODEL,
            registry=registry,
            buckets=_ROWS,
        )
        self.queue = Histogram(
            "coalmine_queue_duration_seconds",
            "Time a request waited for a runner.",
            _MODEL,
            registry=registry,
            buckets=_SECONDS,
        )
        self.shed = Counter(
            "coalmine_requests_shed_total",
            "Requests refused since the server had too much to do.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self._models: dict[tuple[str, str, str], ModelMetrics] = {}

    def of_model(self, *, model_name: str, revision: str, arm: str) -> ModelMetrics:
        """The metrics of one version of one model; the same ones when it comes back."""
        labels = (model_name, revision, arm)
        if labels not in self._models:
            self._models[labels] = ModelMetrics(self, labels)
        return self._models[labels]

    def watch(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Show what `collect` reads when Prometheus asks."""
        self.registry.register(_Collector(collect))

    async def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self.registry)


class ModelMetrics:
    """One arm's metrics. The children of each label set are made once: a look-up costs more."""

    def __init__(self, server: ServerMetrics, labels: tuple[str, str, str]) -> None:
        self._labels = labels
        self._requests = server.requests
        self._durations = {p: server.durations.labels(*labels, p) for p in _PROTOCOLS}
        self._rows = server.rows.labels(*labels)
        self._queue = server.queue.labels(*labels)
        self._shed = {r: server.shed.labels(*labels, r) for r in ("concurrency", "queue")}
        self._answered: dict[tuple[str, int], Counter] = {}

    def answered(self, protocol: str, status: int, seconds: float) -> None:
        """Count one request."""
        counter = self._answered.get((protocol, status))
        if counter is None:
            counter = self._requests.labels(*self._labels, protocol, str(status))
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


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()
