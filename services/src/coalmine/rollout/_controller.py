"""The controller: persists what it intends, makes the world so, gathers evidence, decides.

It ticks. Each tick starts from the database and the world as they are, so there is nothing to
recover after a crash. What fails is tried again on the next tick, and shown as the rollout's note
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.fencing import FencedOff
from coalmine.gateway import RoutePlan
from coalmine.rollout._converge import Converged, converge
from coalmine.rollout._errors import LeaseLost, RolloutMoved
from coalmine.rollout._judge import Judge
from coalmine.rollout._lease import Lease
from coalmine.rollout._state import Outcome, Phase, Rollout, Serving, desired
from coalmine.rollout._store import Entry, Store
from coalmine.rollout._world import World, materialise

__all__ = ["CONTROLLER", "Controller"]

#: The actor of what nobody asked for by hand.
CONTROLLER = "controller"
#: Seconds the way back waits for stable to answer before it routes there all the same.
_REVERT_PATIENCE = 10.0
#: Seconds without any controller after which a rollout that was being watched is given up.
DEAD_MAN = 60.0
_TICK = 0.5
#: Between two looks at a world in which nothing is to change, in seconds.
_IDLE = 2.0

_log = logging.getLogger(__name__)


class Controller:
    """Drives the rollouts of one model service. Only the holder of the lease acts."""

    def __init__(self, store: Store, *, world: World, judge: Judge, clock: Clock) -> None:
        self._store = store
        self._world = world
        self._clock = clock
        self._lease = Lease(store, clock=clock)
        self.judge = judge
        self.note: str | None = None
        """Why the last tick could not go on; None: it could."""

        self.confirmed: RoutePlan | None = None
        """The plan that the data plane had in force at the last tick."""

        self._seen_at = 0.0
        self._adopted = False
        self._claimed: int | None = None
        """The token by which the data plane knows this controller."""

        self._stuck_since: tuple[str, float] | None = None

    @property
    def acting(self) -> bool:
        """Whether this controller holds the lease."""
        return self._lease.held

    async def run(self) -> None:
        """Tick until cancelled; then let the next controller act at once."""
        try:
            while True:
                await self.tick()
                await asyncio.sleep(_TICK)
        finally:
            await asyncio.shield(asyncio.to_thread(self.let_go))

    def let_go(self) -> None:
        """Let the next controller act at once. Blocks."""
        self._lease.release()

    async def tick(self) -> None:
        """Go one step. Never raises but for cancellation: what went wrong is the note."""
        before = self.note
        try:
            await self._tick()
        except (LeaseLost, FencedOff):
            self._stand_by()
        except RolloutMoved:
            pass  # A command came in between: the next tick sees it.
        except Exception as error:
            self.note = f"{type(error).__name__}: {error}"
            if self.note != before:
                _log.warning("rollout tick failed: %s", self.note, exc_info=True)

    async def _tick(self) -> None:
        silent = await asyncio.to_thread(self._lease.acquire)
        if silent is None:
            self._stand_by()
            return
        self.note = None
        if self._claimed != self._lease.token:
            await self._take_over(silent)
        if not self._adopted:
            await self._adopt_champion()
            self._adopted = True
        view = await asyncio.to_thread(self._store.view)
        rollout = view.rollout
        wish = desired(view.serving, rollout)
        if rollout is None and not self._due(wish.plan):
            return
        stuck = self._stuck(wish.plan.decision_id)
        reached = await converge(
            wish,
            router=self._world.router,
            host=self._world.host,
            assure=self._assure,
            impatient=self._impatient(rollout, stuck=stuck),
        )
        if reached.done:
            self.confirmed = wish.plan
        if reached.waiting:
            self.note = f"waiting for {', '.join(reached.waiting)} to answer"
        else:
            self._stuck_since = None
        if rollout is not None:
            await self._advance(rollout, reached, stuck=stuck)

    def _due(self, plan: RoutePlan) -> bool:
        """Whether to look again at a world that was as it should be."""
        now = self._clock.monotonic()
        due = self.confirmed != plan or now - self._seen_at >= _IDLE
        if due:
            self._seen_at = now
        return due

    def _stand_by(self) -> None:
        """Know nothing: what this controller saw of the world may not be so any more."""
        self.note = "another controller acts"
        self.confirmed, self._stuck_since, self._adopted, self._claimed = None, None, False, None

    def _stuck(self, decision_id: str) -> float:
        """How long arms have been waited for under this decision, in seconds."""
        now = self._clock.monotonic()
        if self._stuck_since is None or self._stuck_since[0] != decision_id:
            self._stuck_since = (decision_id, now)
        return now - self._stuck_since[1]

    def _impatient(self, rollout: Rollout | None, *, stuck: float) -> bool:
        """Whether the way back has waited long enough, be it under controllers before this one."""
        if rollout is None or rollout.phase is not Phase.REVERT:
            return False
        since = rollout.reverting_since
        waited = 0.0 if since is None else self._clock.time() - since
        return max(stuck, waited) >= _REVERT_PATIENCE

    async def _assure(self) -> None:
        await asyncio.to_thread(self._lease.assure)

    # -- taking over ------------------------------------------------------------------------------

    async def _take_over(self, silent: float) -> None:
        """Shut out whoever acted before, also in the middle of an effect; then catch up."""
        token = self._lease.token
        self.confirmed, self._stuck_since, self._adopted = None, None, False
        await asyncio.to_thread(self._world.router.claim, token)
        await asyncio.to_thread(self._world.host.claim, token)
        await asyncio.to_thread(self._world.registry.claim, token)
        if silent >= DEAD_MAN:
            await self._give_up_unwatched(silent)
        await self._assure()
        self._claimed = token

    async def _give_up_unwatched(self, silent: float) -> None:
        """The dead man's switch: nobody watched the candidate, so stable gets its traffic back."""
        view = await asyncio.to_thread(self._store.view)
        if view.rollout is not None and view.rollout.judged and view.rollout.windows:
            why = f"no controller watched it for {silent:.0f} s"
            await self._revert(view.rollout, "aborted", why=why)

    async def _adopt_champion(self) -> None:
        """Outside of a rollout, what serves is what the registry says."""
        view = await asyncio.to_thread(self._store.view)
        if view.rollout is not None:
            return
        version = await asyncio.to_thread(self._world.registry.champion)
        serves = None if view.serving.stable is None else view.serving.stable.version
        if version is None or version == serves:
            return
        model = await asyncio.to_thread(materialise, self._world.registry, version)
        decision = f"champion-{version}"
        serving = Serving(stable=model, decision_id=decision)
        plan = desired(serving, None).plan
        entry = Entry("adopted", CONTROLLER, plan, {"version": version, "digest": model.digest})
        await asyncio.to_thread(self._store.adopt, serving, entry, token=self._lease.token)

    # -- one rollout ------------------------------------------------------------------------------

    async def _advance(self, rollout: Rollout, reached: Converged, *, stuck: float) -> None:
        if rollout.phase is Phase.REVERT:
            if reached.done:
                await self._finish_revert(rollout)
        elif reached.waiting:
            await self._waited(rollout, reached.waiting, stuck=stuck)
        elif rollout.judged:
            await self._judge(rollout)
        elif rollout.phase is Phase.RECORD:
            await self._finish_promotion(rollout)
        else:
            await self._save(rollout.passed(self._clock.time()), "passed")

    async def _waited(self, rollout: Rollout, waiting: tuple[Arm, ...], *, stuck: float) -> None:
        """An arm does not answer. If it is the candidate's, that is waited for only so long."""
        arms = desired(Serving(), rollout).arms
        failing = [arm for arm in waiting if arms[arm] == rollout.candidate]
        limit = rollout.policy.max_start
        if failing and stuck >= limit and rollout.phase is not Phase.RECORD:
            why = f"version {rollout.candidate.version} did not answer on {failing[0]} in "
            await self._revert(rollout, "aborted", why=why + f"{limit:.0f} s")
        else:
            await self._out_of_time(rollout)

    async def _judge(self, rollout: Rollout) -> None:
        now = self._clock.time()
        if rollout.open_window is None:
            await self._save(rollout.opened(now), "opened")
            return
        judgement = await self.judge.look(rollout)
        self.note = self.judge.problem
        if judgement is not None:
            kind, body = judgement.verdict.kind, judgement.body
            judged = rollout.judged_as(kind)
            if kind == "regression":
                why = "; ".join(judgement.verdict.reasons)
                await self._revert(judged, "rolled_back", why=why, body=body)
                return
            if kind == "non_inferior" and rollout.held is None:
                if judged.gated:
                    waiting = judged.waiting_at_gate()
                    await self._save(waiting, "held", {"why": waiting.held, **body})
                else:
                    await self._save(judged.passed(now), "passed", body)
                return
            if judgement.news:
                rollout = await self._save(judged, "judged", body)
        await self._out_of_time(rollout)

    async def _out_of_time(self, rollout: Rollout) -> None:
        if rollout.held is not None or not rollout.judged:
            return
        if self._clock.time() < rollout.deadline:
            return
        limit = rollout.policy.max_duration
        why = f"insufficient evidence after {limit:.0f} s"
        if rollout.policy.on_insufficient == "revert":
            await self._revert(rollout, "rolled_back", why=why)
        else:
            await self._save(rollout.holding(why), "held", {"why": why})

    async def _finish_promotion(self, rollout: Rollout) -> None:
        await self._assure()
        version = rollout.candidate.version
        await asyncio.to_thread(self._world.registry.promote, version)
        done = rollout.finished(self._clock.time())
        plan = desired(Serving(), rollout).plan
        serving = Serving(stable=rollout.candidate, decision_id=plan.decision_id, salt=plan.salt)
        await self._save(done, "ended", serving=serving)

    async def _finish_revert(self, rollout: Rollout) -> None:
        await self._assure()
        version, why = rollout.candidate.version, rollout.why or "reverted"
        await asyncio.to_thread(self._world.registry.reject, version, why)
        done = rollout.finished(self._clock.time())
        plan = desired(Serving(), rollout).plan
        serving = Serving(stable=rollout.stable, decision_id=plan.decision_id, salt=plan.salt)
        await self._save(done, "ended", {"why": why}, serving=serving)

    async def _revert(
        self, rollout: Rollout, outcome: Outcome, *, why: str, body: dict[str, Any] | None = None
    ) -> None:
        reverted = rollout.reverted(self._clock.time(), outcome=outcome, why=why)
        await self._save(reverted, "reverted", {"why": why, **(body or {})})

    async def _save(
        self,
        rollout: Rollout,
        kind: str,
        body: dict[str, Any] | None = None,
        *,
        serving: Serving | None = None,
    ) -> Rollout:
        plan = desired(serving or Serving(), rollout).plan
        token = self._lease.token
        entry = Entry(kind, CONTROLLER, plan, {**(body or {}), "controller": token})
        return await asyncio.to_thread(
            self._store.save, rollout, entry, token=token, serving=serving
        )
