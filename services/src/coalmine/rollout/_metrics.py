"""What Prometheus sees of rollouts, read from the controller and its database at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coalmine.arms import Arm
from coalmine.rollout._controller import Controller
from coalmine.rollout._state import Outcome, State
from coalmine.rollout._store import Store

__all__ = ["RolloutCollector"]


class RolloutCollector(Collector):
    """Blocks, since it reads SQLite."""

    def __init__(self, store: Store, controller: Controller, *, model_name: str) -> None:
        self._store = store
        self._controller = controller
        self._model = model_name

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        rollouts = self._store.rollouts()
        yield self._states(rollouts[0].state if rollouts else None)
        yield self._weights()
        yield from self._evidence(rollouts[0].id if rollouts else None)
        ended = self._store.outcomes()
        total = CounterMetricFamily(
            "coalmine_rollouts", "Rollouts that ended.", labels=("model_name", "outcome")
        )
        for outcome in get_args(Outcome):
            total.add_metric((self._model, outcome), ended.get(outcome, 0))
        yield total
        acting = GaugeMetricFamily(
            "coalmine_rollout_controller_acting",
            "Whether this controller holds the lease.",
            labels=("model_name",),
        )
        acting.add_metric((self._model,), float(self._controller.acting))
        yield acting

    def _states(self, current: State | None) -> Metric:
        family = GaugeMetricFamily(
            "coalmine_rollout_state",
            "1 for the state of the newest rollout.",
            labels=("model_name", "state"),
        )
        for state in get_args(State):
            family.add_metric((self._model, state), float(state == current))
        return family

    def _weights(self) -> Metric:
        family = GaugeMetricFamily(
            "coalmine_rollout_weight",
            "Percent of requests to an arm, as confirmed by the data plane.",
            labels=("model_name", "arm"),
        )
        plan = self._controller.confirmed
        if plan is not None:
            for arm in Arm:
                family.add_metric((self._model, arm.value), plan.weights.get(arm, 0))
        return family

    def _evidence(self, rollout: str | None) -> Iterator[Metric]:
        labels = ("model_name", "guard", "source", "against")
        found = GaugeMetricFamily(
            "coalmine_rollout_evidence_log",
            "Natural logarithm of the e-value against `no_worse` or `worse_by_margin`.",
            labels=labels,
        )
        needed = GaugeMetricFamily(
            "coalmine_rollout_evidence_log_threshold",
            "What the evidence must reach for a regression, or for non-inferiority.",
            labels=labels,
        )
        latest = self._controller.judge.latest
        if latest is not None and latest[0] == rollout:
            for guard in latest[1].guards:
                for against, log_e, threshold in (
                    ("no_worse", guard.log_e_worse, guard.log_e_worse_needed),
                    ("worse_by_margin", guard.log_e_within, guard.log_e_within_needed),
                ):
                    key = (self._model, guard.metric, guard.source, against)
                    found.add_metric(key, log_e)
                    needed.add_metric(key, threshold)
        yield found
        yield needed
