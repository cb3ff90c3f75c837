"""What the retrainer does of itself: the first model, the schedule, and calling a person."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from coalmine.clock import Clock
from coalmine.retraining._intake import RESET, Intake
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._notify import Notice, notify, notify_address
from coalmine.retraining._peers import PeerError, Peers
from coalmine.retraining._registry import MlflowRegistry
from coalmine.retraining._schedule import next_due, serve
from coalmine.retraining._store import Store
from coalmine.retraining._types import Ask
from coalmine.spec import RetrainingSpec, ServiceSpec

_log = logging.getLogger(__name__)
_SCHEDULE = "schedule"
_TOLD = "breaker_told"
#: The longest that a due time, or what another process has noted, goes unseen.
_LOOK_SECONDS = 1.0


class Routine:
    """Acts for the one retrainer that works. Used from one event loop."""

    def __init__(
        self,
        service: ServiceSpec,
        *,
        policy: RetrainingSpec,
        state: Path,
        store: Store,
        registry: MlflowRegistry,
        peers: Peers,
        intake: Intake,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._service = service
        self._policy = policy
        self._state = state
        self._store = store
        self._registry = registry
        self._peers = peers
        self._intake = intake
        self._metrics = metrics
        self._clock = clock

    async def begin(self) -> None:
        """Ask for a first model where there is none, and look at the breaker."""
        await self.watch_breaker()
        service = self._service
        if service.retraining is None or not service.model.uri.startswith("models:/"):
            return
        runs = await asyncio.to_thread(self._store.runs)
        on_its_way = any(run.active or run.outcome == "promoted-to-rollout" for run in runs)
        if on_its_way or await asyncio.to_thread(self._registry.champion) is not None:
            return
        text = "there is no champion"
        identity = f"start@{self._clock.time()}"
        await self._intake.submit([Ask("start", text, identity, reason=text, actor="retrainer")])

    async def idle(self, wake: asyncio.Event) -> None:
        """While nothing runs: see how the last rollout ends, until there may be work."""
        runs = await asyncio.to_thread(self._store.runs, limit=1)
        if runs and runs[0].rollout is not None and runs[0].verdict is None:
            with contextlib.suppress(PeerError):  # it is asked again
                await self._intake.settle(await self._peers.rollouts())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), _LOOK_SECONDS)

    async def keep_schedule(self) -> None:
        """Serve the schedule, for ever."""
        while True:
            try:
                await self.serve_schedule()
            except Exception:  # a full disk, say: what is due stays so
                _log.exception("the schedule is interrupted")
            await asyncio.sleep(_LOOK_SECONDS)

    async def serve_schedule(self) -> bool:
        """Ask for a run if the schedule is due; whether it was."""
        schedule = self._policy.schedule
        if schedule is None:
            return False
        now = self._clock.time()
        mark = await asyncio.to_thread(self._store.mark, _SCHEDULE)
        if mark is None:  # new: the first due time counts from now
            await asyncio.to_thread(self._store.set_mark, _SCHEDULE, now)
            return False
        due, served = serve(schedule, mark=mark, now=now)
        if due:
            ask = Ask(
                "schedule", schedule, f"schedule@{served}", f"schedule {schedule}", "schedule"
            )
            await self._intake.submit([ask], marks={_SCHEDULE: served})
        elif served != mark:
            _log.warning("the clock was set back by %.0f s; the schedule follows it", mark - now)
            await asyncio.to_thread(self._store.set_mark, _SCHEDULE, served)
        return due

    async def next_scheduled(self) -> float | None:
        """The schedule's next due time, seconds since the epoch."""
        if self._policy.schedule is None:
            return None
        mark = await asyncio.to_thread(self._store.mark, _SCHEDULE)
        return next_due(self._policy.schedule, self._clock.time() if mark is None else mark)

    async def watch_breaker(self) -> None:
        """Call a person when the circuit breaker opens; once, unless killed in between."""
        found = await self._intake.standing()
        is_open = found.breaker_open(self._policy)
        self._metrics.stopped(is_open)
        told = await asyncio.to_thread(self._store.mark, _TOLD)
        if is_open and told is None:
            notice = Notice(
                run=found.last_failed_run,
                model=self._service.name,
                outcome="STOPPED",
                reason=f"{found.failures} failures in a row",
                message=f"nothing is retrained until: coalmine retrain reset. {found.last_failure}",
            )
            address = notify_address(self._state)
            await asyncio.to_thread(notify, notice, url=address, clock=self._clock)
            await asyncio.to_thread(self._store.set_mark, _TOLD, self._clock.time())
        elif not is_open and told is not None:
            await asyncio.to_thread(self._store.set_mark, _TOLD, None)

    async def reset(self, *, reason: str, actor: str) -> None:
        """Forgive the failures and rejections so far: a person has looked."""
        _log.warning("%s resets the retrainer: %s", actor, reason)
        await asyncio.to_thread(self._store.set_mark, RESET, self._clock.time())
        await self.watch_breaker()
        self._intake.wake.set()
