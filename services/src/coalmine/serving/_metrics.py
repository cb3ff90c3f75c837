"""What a model server counts, for Prometheus.

A request touches plain numbers only; they become metric families when Prometheus asks. (A counter
of `prometheus_client` costs a lock and a microsecond, and a request has half a dozen of them.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from coalmine.serving._batch import Steps

__all__ = ["ModelMetrics", "ServerMetrics"]

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MODEL = ("model_name", "revision", "arm")
_PROTOCOLS = ("v1", "v2", "grpc")
_REASONS = ("concurrency", "queue", "deadline")
#: The steps that KServe's own server times, under the names it gives them.
_STEPS = ("preprocess", "predict", "postprocess")


class _Histogram:
    """Counts per bucket, and the sum. Written by one thread only."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def add(self, other: _Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        total = 0
        buckets = []
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            total += count
            buckets.append((_bound(bound), float(total)))
        family.add_metric(labels, buckets, self.sum)


class Executions:
    """Batches of one size: how many, and the seconds they took to run and to write."""

    __slots__ = ("count", "running", "writing")

    def __init__(self) -> None:
        self.count = 0
        self.running = self.writing = 0.0


class ModelMetrics:
    """The numbers of one version of one model. Used on the event loop only."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        """By protocol and HTTP status."""

        self.durations = {protocol: _Histogram(_SECONDS) for protocol in _PROTOCOLS}
        self.rows = _Histogram(_ROWS)
        self.queue = _Histogram(_SECONDS)
        self.steps = {step: _Histogram(_SECONDS) for step in _STEPS}
        self.refused = dict.fromkeys(_REASONS, 0)
        self.failed_seconds = 0.0
        """Of the requests that were not answered by 200; a part of `durations`."""

        self.executions: dict[int, Executions] = {}
        """By rows of the batch."""

        self.last_run = 0.0
        """Unix time."""

    def answered(self, protocol: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (protocol, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.durations[protocol].observe(seconds)
        if status != 200:
            self.failed_seconds += seconds

    def ran(self, rows: int, *, running: float, writing: float, time: float) -> None:
        """Count one batch that was run: seconds, and the Unix time when it was answered."""
        executions = self.executions.get(rows)
        if executions is None:
            executions = self.executions[rows] = Executions()
        executions.count += 1
        executions.running += running
        executions.writing += writing
        self.last_run = time

    def stepped(self, steps: Steps | None, *, running: float, requests: int) -> None:
        """Time the steps of requests that were run together, all of them in `running` seconds."""
        if steps is not None:
            running = steps.predicted - steps.preprocessed
            self.steps["preprocess"].observe(steps.preprocessed - steps.began, requests)
            self.steps["postprocess"].observe(steps.ended - steps.predicted, requests)
        self.steps["predict"].observe(running, requests)

    def shed(self, reason: str) -> None:
        """Count a request that was refused."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


class ServerMetrics:
    """One server's metrics, of all its models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._models: dict[tuple[str, str, str], ModelMetrics] = {}
        self.watch(self._families)

    def of_model(self, *, model_name: str, revision: str, arm: str) -> ModelMetrics:
        """The metrics of one version of one model; the same ones when it comes back."""
        return self._models.setdefault((model_name, revision, arm), ModelMetrics())

    @property
    def requests(self) -> int:
        """Requests answered so far, whatever was answered."""
        return sum(sum(model.requests.values()) for model in self._models.values())

    def watch(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Show what `collect` reads when Prometheus asks."""
        self.registry.register(_Collector(collect))

    async def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self.registry)

    def _families(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "coalmine_requests",
            "Inference requests answered, by HTTP status (also of gRPC calls).",
            labels=(*_MODEL, "protocol", "status"),
        )
        durations = HistogramMetricFamily(
            "coalmine_request_duration_seconds",
            "From the end of the request's body to the start of the response.",
            labels=(*_MODEL, "protocol"),
        )
        rows = HistogramMetricFamily(
            "coalmine_batch_rows", "Rows of the batch a request was run in.", labels=_MODEL
        )
        queue = HistogramMetricFamily(
            "coalmine_queue_duration_seconds",
            "Time from a request's arrival in the queue to the start of its batch.",
            labels=_MODEL,
        )
        shed = CounterMetricFamily(
            "coalmine_requests_shed",
            "Requests refused since the server had too much to do.",
            labels=(*_MODEL, "reason"),
        )
        batches = CounterMetricFamily(
            "coalmine_batches", "Batches that the model has run.", labels=_MODEL
        )
        compute = CounterMetricFamily(
            "coalmine_compute_seconds",
            "Time spent on batches: running the model, and writing the answers.",
            labels=(*_MODEL, "stage"),
        )
        for labels, model in list(self._models.items()):
            executed = list(model.executions.values())
            batches.add_metric(labels, sum(each.count for each in executed))
            compute.add_metric((*labels, "run"), sum(each.running for each in executed))
            compute.add_metric((*labels, "write"), sum(each.writing for each in executed))
            for (protocol, status), count in list(model.requests.items()):
                requests.add_metric((*labels, protocol, str(status)), count)
            for protocol, histogram in model.durations.items():
                histogram.add_to(durations, (*labels, protocol))
            model.rows.add_to(rows, labels)
            model.queue.add_to(queue, labels)
            for reason, count in list(model.refused.items()):
                shed.add_metric((*labels, reason), count)
        return (requests, durations, rows, queue, shed, batches, compute, *self._kserve_families())

    def _kserve_families(self) -> Iterable[Metric]:
        """KServe's names: what dashboards made for its server show. It knows no versions."""
        for step in _STEPS:
            text = f"{step.capitalize()} of a request, in KServe's terms."
            family = HistogramMetricFamily(f"request_{step}_seconds", text, labels=["model_name"])
            by_name: dict[str, _Histogram] = {}
            for (name, _, _), model in list(self._models.items()):
                if sum(model.steps[step].counts):
                    by_name.setdefault(name, _Histogram(_SECONDS)).add(model.steps[step])
            for name, histogram in by_name.items():
                histogram.add_to(family, [name])
            yield family


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else str(float(value))


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()
