"""The retrainer's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from coalmine.retraining._policy import REASONS


class Metrics:
    """Counters of one service's triggers and runs, in a registry of their own."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model_name = model_name
        self._triggers = Counter(
            "coalmine_retrain_triggers",
            "Triggers of retraining by fate: accepted, merged, suppressed. A run that was accepted "
            "and then not started counts as suppressed too.",
            ["model_name", "outcome"],
            registry=self.registry,
        )
        self._runs = Counter(
            "coalmine_retrain_runs",
            "Runs of the training pipeline by outcome.",
            ["model_name", "outcome"],
            registry=self.registry,
        )
        self._suppressed = Counter(
            "coalmine_retrain_suppressed",
            "Suppressed triggers of retraining by the kind of reason.",
            ["model_name", "reason"],
            registry=self.registry,
        )
        self._stopped = Gauge(
            "coalmine_retrain_stopped",
            "1 while the circuit breaker is open: nothing is retrained until a person says so.",
            ["model_name"],
            registry=self.registry,
        )
        self._running = Gauge(
            "coalmine_retrain_running",
            "1 while the training pipeline runs.",
            ["model_name"],
            registry=self.registry,
        )
        self._deadline = Gauge(
            "coalmine_retrain_run_deadline_timestamp_seconds",
            "When the run of the pipeline that is under way will have been killed at the latest; "
            "0 while none is.",
            ["model_name"],
            registry=self.registry,
        )
        for fate in ("accepted", "merged", "suppressed"):
            self._triggers.labels(model_name, fate)
        for reason in REASONS:
            self._suppressed.labels(model_name, reason)
        for outcome in ("promoted-to-rollout", "rejected", "failed", "timeout"):
            self._runs.labels(model_name, outcome)
        self.running(None)
        self.stopped(False)

    def triggers(self, fate: str, count: int) -> None:
        """Count triggers of a fate."""
        self._triggers.labels(self._model_name, fate).inc(count)

    def suppressed(self, reason: str, count: int) -> None:
        """Count suppressed triggers by `_policy.REASONS`."""
        self._suppressed.labels(self._model_name, reason).inc(count)

    def stopped(self, is_stopped: bool) -> None:
        """Note whether the circuit breaker is open."""
        self._stopped.labels(self._model_name).set(is_stopped)

    def run(self, outcome: str) -> None:
        """Count a run that has ended."""
        self._runs.labels(self._model_name, outcome).inc()

    def running(self, deadline: float | None) -> None:
        """Note until when the pipeline may run, seconds since the epoch; None: it does not run."""
        self._running.labels(self._model_name).set(deadline is not None)
        self._deadline.labels(self._model_name).set(deadline or 0.0)
