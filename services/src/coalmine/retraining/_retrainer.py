"""The retrainer's work: it advances the one active run, from the wait for labels to the rollout.

A run is a small state machine in the database: waiting -> running -> offering -> finished, or
waiting -> cancelled. Every state is written before it is acted on, and every action can be
repeated, so a retrainer that is killed anywhere carries on where it was:

- waiting: it waits again
- running: the pipeline's process died with us; it starts again, on the same rows
- offering: the rollout controller is asked first whether it has the version already
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from coalmine.clock import Clock
from coalmine.retraining._errors import RetrainingError
from coalmine.retraining._intake import Intake
from coalmine.retraining._leader import leading
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._peers import OfferRefused, PeerError, Peers
from coalmine.retraining._pipeline_run import PipelineRunner
from coalmine.retraining._readiness import Readiness, Verdict
from coalmine.retraining._registry import MlflowRegistry
from coalmine.retraining._routine import Routine
from coalmine.retraining._store import Store
from coalmine.retraining._types import Run
from coalmine.spec import RetrainingSpec, ServiceSpec

_log = logging.getLogger(__name__)
_TICK_SECONDS = 1.0
_BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
_KEPT_WORKSPACES = 5


@dataclass(frozen=True, slots=True)
class Parts:
    """What a retrainer works with."""

    service: ServiceSpec
    policy: RetrainingSpec
    state: Path
    store: Store
    registry: MlflowRegistry
    peers: Peers
    intake: Intake
    routine: Routine
    readiness: Readiness
    runner: PipelineRunner
    metrics: Metrics
    clock: Clock


class Retrainer:
    """Advances the active run, while no other process does. Used from one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._store = parts.store

    async def work(self) -> None:
        """See to it that there is a first model, and advance the active run, for ever."""
        async with leading(self._parts.state / "retraining.lock"), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._parts.routine.keep_schedule(), name="schedule")
            tasks.create_task(self._keep_advancing(), name="runs")

    # -- the state machine ------------------------------------------------------------------------

    async def _keep_advancing(self) -> None:
        while True:
            try:
                await self._parts.routine.begin()
                await self._advance_for_ever()
            except Exception:  # a full disk, say: what is active stays so, and is tried again
                _log.exception("the retrainer is interrupted")
                await asyncio.sleep(_BACK_OFF_SECONDS[-1])

    async def _advance_for_ever(self) -> None:
        wake = self._parts.intake.wake
        while True:
            wake.clear()
            run = await asyncio.to_thread(self._store.active_run)
            self._parts.metrics.running(self._deadline(run))
            if run is None:
                await self._parts.routine.idle(wake)
            elif run.state == "waiting":
                await self._wait(run)
            elif run.state == "running":
                await self._run(run)
            else:
                await self._offer(run)

    async def _wait(self, run: Run) -> None:
        now = self._clock.time()
        found = (
            Verdict("go", "")
            if run.kind == "bootstrap"
            else await self._parts.readiness.of(run, now=now)
        )
        if found.answer == "go":
            maturity = self._parts.readiness.maturity
            await self._change(run, state="running", started=now, until=now - maturity)
        elif found.answer == "suppress":
            await asyncio.to_thread(
                self._store.suppress_run, run.id, reason=found.reason, now=self._clock.time()
            )
            self._parts.metrics.triggers("suppressed", 1)
            self._parts.metrics.suppressed("not_ready", 1)
            _log.warning("run %s is not started: %s", run.id, found.reason)
        else:
            if found.reason != run.waiting_for:
                await self._change(run, waiting_for=found.reason)
            await asyncio.sleep(_TICK_SECONDS)

    async def _run(self, run: Run) -> None:
        try:
            result = await self._parts.runner.run(run)
        except RetrainingError as error:
            await self._finish(run, outcome="failed", error=str(error))
            return
        changes = {"reasons": result.reasons, "steps": dict(result.steps)}
        if result.outcome == "promote":
            await self._change(run, state="offering", version=result.version, **changes)
            return
        outcomes = {"reject": "rejected", "failed": "failed", "timeout": "timeout"}
        await self._finish(run, outcome=outcomes[result.outcome], error=result.error, **changes)

    async def _offer(self, run: Run) -> None:
        """Start the rollout of what was registered, exactly once."""
        for attempt in count():
            try:
                if await self._offered(run):
                    return
            except PeerError as error:
                _log.warning("run %s: the rollout is not started yet: %s", run.id, error)
            await asyncio.sleep(_BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)])

    async def _offered(self, run: Run) -> bool:
        """Offer the version; whether that is settled, one way or the other.

        The list is read first: a retrainer that was killed between the offer and the note of it
        finds the rollout there.
        """
        peers, version = self._parts.peers, run.version or ""
        known = {rollout.version: rollout.id for rollout in await peers.rollouts()}
        rollout = known.get(version)
        try:
            if rollout is None:
                shadow = self._parts.service.rollout.shadow is not None
                rollout = await peers.offer(version, reason=run.reason, shadow=shadow)
        except OfferRefused as refusal:
            if not all(other.over for other in await peers.rollouts()):
                return False  # another one is under way: its turn comes
            reason = f"the rollout controller refuses it: {refusal}"
            await asyncio.to_thread(self._parts.registry.reject, version, reason)
            await self._finish(run, outcome="rejected", error=reason)
            return True
        await self._finish(run, outcome="promoted-to-rollout", rollout=rollout)
        return True

    def _deadline(self, run: Run | None) -> float | None:
        """When a run that is about to run, or to go on, will have been killed at the latest."""
        if run is None or run.state != "running":
            return None
        return self._clock.time() + max(0.0, self._parts.policy.time_limit - run.spent)

    # -- small steps ------------------------------------------------------------------------------

    async def _change(self, run: Run, **changes: object) -> Run:
        return await asyncio.to_thread(
            self._store.change_run, run.id, **{"waiting_for": "", **changes}
        )

    async def _finish(self, run: Run, *, outcome: str, **changes: object) -> None:
        changes |= {"state": "finished", "outcome": outcome, "ended": self._clock.time()}
        await self._change(run, **changes)
        self._parts.metrics.run(outcome)
        await self._parts.routine.watch_breaker()
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        """Delete the workspaces of old runs: each holds its telemetry several times over."""
        for old in self._store.runs()[_KEPT_WORKSPACES:]:
            shutil.rmtree(self._parts.runner.workspace(old.id), ignore_errors=True)
