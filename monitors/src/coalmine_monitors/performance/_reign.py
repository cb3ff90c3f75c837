"""The time that a version is stable, in which its accuracy is watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from coalmine.arms import Arm
from coalmine.incidents import Incident
from coalmine.spec import PerformanceSpec
from coalmine_monitors._incidents import Finding, close, follow
from coalmine_monitors.performance._accuracy import AccuracyDetector
from coalmine_monitors.performance._check import EstimateCheck
from coalmine_monitors.performance._estimate import Calibration
from coalmine_monitors.performance._join import Scored
from coalmine_monitors.performance._objective import Objective
from coalmine_monitors.performance._tasks import Task

__all__ = ["Reign"]


@dataclass(frozen=True)
class _Span:
    """Which rows are the reign's: of its version, answered in [since, until), record time."""

    version: str
    since: float
    until: float | None = None


class Reign:
    """One version's reign: a detector of lost accuracy, and the incident that follows from it.

    Labels come late, so some of them come when another version is stable already. They still belong
    to the reign in which the row was answered: what is found is then the same whether the log is
    followed or replayed. An incident that outlives its reign was over when the reign was.
    """

    def __init__(
        self,
        version: str,
        *,
        since: float,
        objective: Objective | None,
        spec: PerformanceSpec,
        block_s: float,
        calibration: Calibration | None = None,
    ) -> None:
        self.incident: Incident | None = None
        """The incident while accuracy is lost."""
        self._span = _Span(version, since)
        self.check = None if calibration is None else EstimateCheck(calibration)
        """Whether what is estimated without labels can be believed; None without estimates."""
        self.detector: AccuracyDetector | None = None
        self.objective = objective
        """What is watched; None: nothing, for want of an evaluation."""
        if objective is not None:
            good = objective.good(objective.baseline)
            self.detector = AccuracyDetector(
                baseline=good,
                margin=good - objective.good(objective.threshold),
                run_length=spec.expected_run_length,
                block_s=block_s,
            )

    @property
    def version(self) -> str:
        """The version that is, or was, stable."""
        return self._span.version

    @property
    def since(self) -> float:
        """Record time of its beginning."""
        return self._span.since

    def end(self, *, at: float) -> Incident | None:
        """Another version is stable; returns the incident if one was open."""
        self._span = replace(self._span, until=at)
        return None if self.incident is None else self._as_known(self.incident)

    def owns(self, row: Scored) -> bool:
        """Whether a labelled row says something about the reign."""
        span = self._span
        return (
            row.version == span.version
            and row.arm in (Arm.STABLE, Arm.CANARY)
            and span.since <= row.time
            and (span.until is None or row.time < span.until)
        )

    def update(
        self, row: Scored, *, model: str, task: Task | None, onset: Callable[[Scored], float]
    ) -> Incident | None:
        """Take the next labelled row; returns the incident if that changed it."""
        if self.check is not None and row.chance is not None and row.joined is not None:
            self.check.update(chance=row.chance, correct=row.correct, klass=row.joined.klass)
        detector, objective = self.detector, self.objective
        if detector is None or objective is None or row.joined is None:
            return None
        good = objective.of(row.joined, task)
        if good is None:
            return None
        groups = detector.groups
        detector.update(row, good=row.correct if objective.metric == "accuracy" else good)
        if detector.groups == groups:
            return None
        of_accuracy = objective.metric == "accuracy"
        finding = _finding(
            detector,
            objective,
            self.incident,
            onset=lambda: onset(row) if of_accuracy else min(detector.since, row.time),
        )
        incident = follow(
            self.incident, finding, kind="accuracy", model=model, version=self._span.version
        )
        self.incident = incident if finding.detected else None
        return None if incident is None else self._as_known(incident)

    def _as_known(self, incident: Incident) -> Incident:
        """An incident that lasts is over at the latest when the reign is."""
        if incident.closed_at is None and self._span.until is not None:
            return close(incident, at=self._span.until)
        return incident

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""
        detector, incident = self.detector, self.incident
        return {
            "version": self._span.version,
            "since": self._span.since,
            "until": self._span.until,
            "objective": None if self.objective is None else asdict(self.objective),
            "incident": None if incident is None else incident.model_dump(mode="json"),
            "detector": None if detector is None else detector.state(),
            "check": None if self.check is None else self.check.state(),
        }

    @classmethod
    def restored(
        cls,
        state: Mapping[str, Any],
        *,
        spec: PerformanceSpec,
        block_s: float,
        calibration: Calibration | None = None,
    ) -> Reign:
        """The reign that gave `state`."""
        version = state["version"]
        reign = cls(
            version,
            since=state["since"],
            objective=_objective(state, spec),
            spec=spec,
            block_s=block_s,
            calibration=calibration,
        )
        reign._span = _Span(version, state["since"], state["until"])
        if state["incident"] is not None:
            reign.incident = Incident.model_validate(state["incident"])
        if reign.detector is not None:
            reign.detector.restore(state["detector"])
        if reign.check is not None and state["check"] is not None:
            reign.check.restore(state["check"])
        return reign


def _objective(state: Mapping[str, Any], spec: PerformanceSpec) -> Objective | None:
    """What a reign was held to, by the margin that is asked for now."""
    saved = state["objective"]
    if saved is None:
        return None
    objective = Objective(**saved)
    return objective if spec.margin is None else replace(objective, margin=spec.margin)


def _finding(
    detector: AccuracyDetector,
    objective: Objective,
    incident: Incident | None,
    *,
    onset: Callable[[], float],
) -> Finding:
    end = detector.newest
    if not detector.detected:
        return Finding(detected=False, end=end)
    log_evidence, needed = detector.log_evidence
    score, metric = objective.shown(detector.score), objective.metric
    told = (score, objective.threshold, objective.baseline)
    if metric == "accuracy":
        now, limit, found = (f"{value:.1%}" for value in told)
    else:
        now, limit, found = (f"{value:.4g}" for value in told)
    return Finding(
        detected=True,
        end=end,
        onset=onset() if incident is None else incident.onset_at,
        summary=(
            f"{metric} is {now}, {'below' if metric == 'accuracy' else 'above'} {limit}"
            f" (its evaluation found {found})"
        ),
        evidence={
            metric: score,
            "baseline": objective.baseline,
            "threshold": objective.threshold,
            "labelled": detector.labelled,
            "log_evidence": log_evidence,
            "log_evidence_threshold": needed,
        },
    )
