"""The retrainer: from triggers to runs, and from runs to rollouts.

A run is a small state machine in the database: waiting -> running -> offering -> finished, or
waiting -> cancelled. One task advances the one active run; every state is written before it is
acted on, and every action can be repeated, so a retrainer that is killed anywhere carries on where
it was:

- waiting: it waits again
- running: the pipeline's process died with us; it starts again, on the same rows
- offering: the rollout controller is asked first whether it has the version already
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Literal

from coalmine.clock import Clock
from coalmine.retraining._errors import RetrainingError, RunRefused
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._parameters import RunKind
from coalmine.retraining._peers import OfferRefused, PeerError, Peers
from coalmine.retraining._pipeline_run import PipelineRunner
from coalmine.retraining._policy import (
    Judgement,
    Situation,
    counted_runs,
    judge_alert,
    judge_request,
)
from coalmine.retraining._readiness import Readiness, Verdict
from coalmine.retraining._registry import MlflowRegistry
from coalmine.retraining._store import Run, Store, Trigger
from coalmine.retraining._webhook import Alert, Notification
from coalmine.spec import ServiceSpec

_log = logging.getLogger(__name__)
_TICK_SECONDS = 1.0
_BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0)
_KEPT_WORKSPACES = 5


@dataclass(frozen=True, slots=True)
class Parts:
    """What a retrainer works with."""

    service: ServiceSpec
    store: Store
    registry: MlflowRegistry
    peers: Peers
    readiness: Readiness
    runner: PipelineRunner
    metrics: Metrics
    clock: Clock


class Retrainer:
    """Takes triggers, and advances the active run. Used from one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._store = parts.store
        self._judging = asyncio.Lock()
        self._wake = asyncio.Event()

    async def alerts(self, notification: Notification) -> dict[str, int]:
        """Judge every alert of a webhook call; how many had each fate."""
        async with self._judging:
            situation = await self._situation()
            judged = []
            run: Run | None = None
            for alert in notification.alerts:
                judgement = judge_alert(alert, situation, self._parts.service.retraining)
                if judgement.fate == "accepted" and run is not None:
                    judgement = Judgement("merged", f"into run {run.id}")
                elif judgement.fate == "accepted":
                    run = self._run_for(alert, situation)
                judged.append(self._trigger(alert, judgement, situation, run))
            await asyncio.to_thread(self._store.note_triggers, judged, run=run)
        fates: Counter[str] = Counter(trigger.fate for trigger in judged)
        for fate, times in fates.items():
            self._parts.metrics.triggers(fate, times)
        self._wake.set()
        return dict(fates)

    async def request(self, *, reason: str, actor: str) -> Run:
        """Start a run for a person; `RunRefused` says why not."""
        async with self._judging:
            situation = await self._situation()
            judgement = judge_request(situation, self._parts.service.retraining)
            kind: RunKind = "bootstrap" if situation.champion is None else "retrain"
            run = None
            if judgement.fate == "accepted":
                run = Run(
                    id=_new_id(kind, situation.now),
                    kind=kind,
                    reason=reason,
                    actor=actor,
                    created=situation.now,
                    model_version=situation.champion or "",
                )
            trigger = _own_trigger("manual", reason, judgement, run=run, now=situation.now)
            await asyncio.to_thread(self._store.note_triggers, [trigger], run=run)
        self._parts.metrics.triggers(judgement.fate, 1)
        if run is None:
            raise RunRefused(judgement.reason)
        self._wake.set()
        return run

    async def work(self) -> None:
        """Make sure that there is a first model, and advance the active run, for ever."""
        while True:
            try:
                await self._first_model()
                await self._advance_for_ever()
            except Exception:  # a full disk, say: what is active stays so, and is tried again
                _log.exception("the retrainer is interrupted")
                await asyncio.sleep(_BACK_OFF_SECONDS[-1])

    # -- the state machine ------------------------------------------------------------------------

    async def _advance_for_ever(self) -> None:
        while True:
            run = await asyncio.to_thread(self._store.active_run)
            if run is None:
                self._parts.metrics.running(False)
                self._wake.clear()
                await self._wake.wait()
                continue
            self._parts.metrics.running(run.state == "running")
            if run.state == "waiting":
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
            await self._change(run, state="running", started=now, until=now, waiting_for="")
        elif found.answer == "suppress":
            await asyncio.to_thread(
                self._store.suppress_run, run.id, reason=found.reason, now=self._clock.time()
            )
            self._parts.metrics.triggers("suppressed", 1)
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

    # -- small steps ------------------------------------------------------------------------------

    async def _first_model(self) -> None:
        """A service that names a registry and has no champion gets a run, once."""
        service = self._parts.service
        if service.retraining is None or not service.model.uri.startswith("models:/"):
            return
        runs = await asyncio.to_thread(self._store.runs)
        on_its_way = any(run.active or run.outcome == "promoted-to-rollout" for run in runs)
        if on_its_way or await asyncio.to_thread(self._parts.registry.champion) is not None:
            return
        now = self._clock.time()
        run = Run(
            id=_new_id("bootstrap", now),
            kind="bootstrap",
            reason="there is no champion",
            actor="retrainer",
            created=now,
        )
        trigger = _own_trigger("start", run.reason, Judgement("accepted", ""), run=run, now=now)
        await asyncio.to_thread(self._store.note_triggers, [trigger], run=run)
        self._parts.metrics.triggers("accepted", 1)

    async def _situation(self) -> Situation:
        """What a judgement needs; a silent peer is asked again before a run starts."""
        runs = await asyncio.to_thread(self._store.runs)
        starts, last_ended = counted_runs(runs)
        incident, rollout = None, None
        try:
            incident = (await self._parts.peers.quality()).incident
            under_way = [r.version for r in await self._parts.peers.rollouts() if not r.over]
            rollout = under_way[0] if under_way else None
        except PeerError as error:
            _log.warning("judging without a peer's answer: %s", error)
        return Situation(
            now=self._clock.time(),
            model_name=self._parts.service.name,
            champion=await asyncio.to_thread(self._parts.registry.champion),
            active=next((run for run in runs if run.active), None),
            last_ended=last_ended,
            started=starts,
            rollout=rollout,
            quality_incident=incident,
        )

    def _run_for(self, alert: Alert, situation: Situation) -> Run:
        summary = alert.annotations.get("summary", "")
        return Run(
            id=_new_id("retrain", situation.now),
            kind="retrain",
            reason=f"{alert.name}: {summary}" if summary else alert.name,
            actor="alertmanager",
            created=situation.now,
            model_version=situation.champion or "",
            since=alert.onset,
            alerted=alert.starts_at,
        )

    def _trigger(
        self, alert: Alert, judgement: Judgement, situation: Situation, run: Run | None
    ) -> Trigger:
        owner = run if run is not None else situation.active
        return Trigger(
            identity=alert.identity,
            source="alert",
            name=alert.name,
            model_version=alert.labels.get("revision", ""),
            starts_at=alert.starts_at,
            fate=judgement.fate,
            reason=judgement.reason,
            run=owner.id if owner is not None and judgement.fate != "suppressed" else None,
            count=1,
            first_at=situation.now,
            last_at=situation.now,
        )

    async def _change(self, run: Run, **changes: object) -> Run:
        return await asyncio.to_thread(self._store.change_run, run.id, **changes)

    async def _finish(self, run: Run, *, outcome: str, **changes: object) -> None:
        changes |= {"state": "finished", "outcome": outcome, "ended": self._clock.time()}
        await self._change(run, **changes)
        self._parts.metrics.run(outcome)
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        """Delete the workspaces of old runs: each holds its telemetry several times over."""
        for old in self._store.runs()[_KEPT_WORKSPACES:]:
            shutil.rmtree(self._parts.runner.workspace(old.id), ignore_errors=True)


def _own_trigger(
    source: Literal["manual", "start"],
    name: str,
    judgement: Judgement,
    *,
    run: Run | None,
    now: float,
) -> Trigger:
    """A trigger that is no alert."""
    return Trigger(
        identity=f"{source}@{now}",
        source=source,
        name=name,
        model_version=run.model_version if run is not None else "",
        starts_at=None,
        fate=judgement.fate,
        reason=judgement.reason,
        run=run.id if run is not None else None,
        count=1,
        first_at=now,
        last_at=now,
    )


def _new_id(kind: str, now: float) -> str:
    """Sorts by time, and says what it is: `retrain-1795256951-3f2a`."""
    return f"{kind}-{int(now)}-{uuid.uuid4().hex[:4]}"
