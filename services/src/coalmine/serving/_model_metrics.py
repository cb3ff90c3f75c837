"""What is read of the models when Prometheus asks: state, version, load, records."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from coalmine.serving._repository import ModelState, Repository

__all__ = ["model_families"]

_MODEL = ("model_name", "revision", "arm")


def model_families(repository: Repository) -> Iterable[Metric]:
    """The families of all models of a repository."""
    yield from _states(repository)
    yield from _load(repository)
    yield from _records(repository)


def _states(repository: Repository) -> Iterable[Metric]:
    state = GaugeMetricFamily(
        "coalmine_model_state",
        "1 for the state a model is in.",
        labels=("model_name", "revision", "state"),
    )
    info = GaugeMetricFamily(
        "coalmine_model_info",
        "1 for each model that is served.",
        labels=(*_MODEL, "platform", "digest"),
    )
    failures = CounterMetricFamily(
        "coalmine_model_load_failures",
        "Loads of a model or of a new version of it that failed.",
        labels=("model_name",),
    )
    for slot in repository.slots():
        servable = slot.servable
        revision = "" if servable is None else servable.version
        for each in ModelState:
            state.add_metric((slot.name, revision, each.lower()), slot.state == each)
        failures.add_metric((slot.name,), slot.failures)
        if servable is not None:
            digest = (slot.plan.digest if slot.plan else None) or ""
            labels = (slot.name, revision, servable.arm, servable.platform, digest)
            info.add_metric(labels, 1)
    return state, info, failures


def _load(repository: Repository) -> Iterable[Metric]:
    inflight = GaugeMetricFamily(
        "coalmine_inflight_requests", "Inference requests being answered now.", labels=_MODEL
    )
    queued = GaugeMetricFamily(
        "coalmine_queue_rows", "Rows that wait for the model.", labels=_MODEL
    )
    for servable in repository.serving():
        labels = (servable.name, servable.version, servable.arm)
        inflight.add_metric(labels, servable.calls)
        queued.add_metric(labels, servable.queued_rows)
    return inflight, queued


def _records(repository: Repository) -> Iterable[Metric]:
    emitted = CounterMetricFamily(
        "coalmine_records_emitted", "Record rows given to the emitter.", labels=_MODEL
    )
    pending = GaugeMetricFamily(
        "coalmine_records_pending", "Record rows the collector has not got yet.", labels=_MODEL
    )
    dropped = CounterMetricFamily(
        "coalmine_records_dropped", "Record rows lost.", labels=(*_MODEL, "reason")
    )
    for servable in repository.serving():
        if servable.emitter is None:
            continue
        labels = (servable.name, servable.version, servable.arm)
        stats = servable.emitter.stats()  # of the model: its versions share a spool
        emitted.add_metric(labels, stats.emitted_rows)
        pending.add_metric(labels, stats.pending_rows)
        for reason, rows in stats.dropped.items():
            dropped.add_metric((*labels, reason), rows)
    return emitted, pending, dropped
