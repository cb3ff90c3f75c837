"""Running the pipeline of one run to its result, however often its process dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from coalmine.clock import Clock
from coalmine.retraining._child import AttemptEnd, kill_leftovers, run_attempt
from coalmine.retraining._events import read_events
from coalmine.retraining._notify import NOTIFY_URL, Notice, notify, notify_address
from coalmine.retraining._parameters import RunParameters
from coalmine.retraining._progress import Progress, progress_of
from coalmine.retraining._registry import MlflowRegistry
from coalmine.retraining._store import Store
from coalmine.retraining._types import Run
from coalmine.retraining.run import RESULT_FILE
from coalmine.spec import RetrainingSpec, ServiceSpec

#: Of a run's time limit, the part that tuning may take.
_TUNING_SHARE = 0.25
#: Restarts of the retrainer that one run may see: it may be what kills it, of memory, say.
_MOST_RESTARTS = 10


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """How the pipeline ended."""

    outcome: Literal["promote", "reject", "failed", "timeout"]
    error: str | None = None
    version: str | None = None
    reasons: tuple[str, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for every run of a service."""

    service: ServiceSpec
    policy: RetrainingSpec
    state: Path
    log_uri: str
    telemetry: Path | None
    seed: int


class PipelineRunner:
    """Starts attempts, limits them, and tells people of ends that the pipeline could not tell."""

    def __init__(
        self, surroundings: Surroundings, *, store: Store, registry: MlflowRegistry, clock: Clock
    ) -> None:
        self._policy = surroundings.policy
        self._around = surroundings
        self._state = surroundings.state.absolute()
        self._store = store
        self._registry = registry
        self._clock = clock

    def workspace(self, run_id: str) -> Path:
        """The directory of a run's attempts."""
        return self._state / "runs" / run_id

    def steps(self, run: Run) -> dict[str, float | None]:
        """Seconds of every step of the latest attempt so far; None for one that is under way."""
        events = read_events(self._attempt(run))
        return {e["name"]: e.get("seconds") for e in events if e["event"] == "step"}

    def progress(self, run: Run) -> Progress:
        """What the latest attempt does now, and how far it is."""
        return progress_of(read_events(self._attempt(run)), now=self._clock.time())

    async def run(self, run: Run) -> PipelineResult:
        """Run the pipeline; again when its process dies, as often as the service file allows."""
        await asyncio.to_thread(kill_leftovers, run.id)
        if run.attempts and (self._attempt(run) / RESULT_FILE).exists():
            return await asyncio.to_thread(self._result, run)  # it had ended when we died
        if run.attempts - run.deaths >= _MOST_RESTARTS:
            return await asyncio.to_thread(self._conclude, run, "interrupted")
        if run.kind == "retrain":  # what the new model is compared with, verified
            await asyncio.to_thread(self._registry.materialise, run.model_version)
        while True:
            run = await asyncio.to_thread(self._store.change_run, run.id, attempts=run.attempts + 1)
            began = self._clock.monotonic()
            end = await run_attempt(
                self._attempt(run),
                run_id=run.id,
                order={
                    "pipeline": self._policy.pipeline,
                    "parameters": asdict(self._parameters(run)),
                },
                seconds=self._policy.time_limit - run.spent,
                environment=self._environment(),
            )
            spent = run.spent + self._clock.monotonic() - began
            deaths = run.deaths + (end == "died")
            run = await asyncio.to_thread(
                self._store.change_run, run.id, spent=spent, deaths=deaths
            )
            if end != "died" or deaths > self._policy.retries:
                return await asyncio.to_thread(self._conclude, run, end)

    def _conclude(self, run: Run, end: AttemptEnd | Literal["interrupted"]) -> PipelineResult:
        if end == "ended":
            result = self._result(run)
        elif end == "timeout":
            limit = f"{self._policy.time_limit:g} s"
            result = PipelineResult("timeout", error=f"killed at its time limit of {limit}")
        elif end == "interrupted":
            error = f"given up: the retrainer ended {_MOST_RESTARTS} times while it ran"
            result = PipelineResult("failed", error=error)
        else:
            result = PipelineResult("failed", error=f"its process died {run.deaths} times")
        told = any(event["event"] == "notified" for event in read_events(self._attempt(run)))
        if not told:  # its exit step did not get so far
            outcome = {"promote": "SUCCEEDED", "reject": "SUCCEEDED"}.get(result.outcome)
            notify(
                Notice(
                    run=run.id,
                    model=self._around.service.name,
                    outcome=outcome or result.outcome,
                    reason=run.reason,
                    message=result.error or "; ".join(result.reasons),
                ),
                url=self._environment()[NOTIFY_URL],
                clock=self._clock,
            )
        return result

    def _result(self, run: Run) -> PipelineResult:
        attempt = self._attempt(run)
        content = json.loads((attempt / RESULT_FILE).read_text(encoding="utf-8"))
        seconds = {k: v for k, v in self.steps(run).items() if v is not None}
        return PipelineResult(
            outcome=content["outcome"],
            error=content["error"],
            version=content["version"],
            reasons=tuple(content["reasons"]),
            steps=seconds,
        )

    def _attempt(self, run: Run) -> Path:
        return self.workspace(run.id) / f"attempt-{run.attempts}"

    def _environment(self) -> dict[str, str]:
        """What is a secret, or a limit of a container, on a cluster."""
        return {
            NOTIFY_URL: notify_address(self._state),
            "OMP_NUM_THREADS": "1",  # a run shares the machine with the model servers
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def _parameters(self, run: Run) -> RunParameters:
        around = self._around
        return RunParameters(
            run_id=run.id,
            kind=run.kind,
            reason=run.reason,
            model_name=around.service.name,
            seed=around.seed,
            trials=self._policy.trials,
            tuning_seconds=_TUNING_SHARE * self._policy.time_limit,
            candidates=",".join(self._policy.candidates),
            segments=("class", *(segment.text for segment in self._policy.segments)),
            window_rows=around.service.monitors.drift.window_rows,
            tracking_uri=self._registry.tracking_uri,
            artifacts=str(self._state / "mlartifacts"),
            models=str(self._state / "models"),
            data=str(self._state / "data"),
            log_uri=around.log_uri,
            telemetry=str(around.telemetry.absolute()) if around.telemetry is not None else "",
            champion=run.model_version,
            since=run.since,
            until=run.until or 0.0,
        )
