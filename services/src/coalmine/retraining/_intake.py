"""The one way to a run: whatever asks for one is judged here, and its fate written down.

Asks that come while others are judged are judged together after them, by one look at the situation
and in one transaction. So ten thousand alerts cost little more than one, and an answer means that
the fate is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalmine.clock import Clock
from coalmine.retraining._errors import RetrainingError, StoreBusy
from coalmine.retraining._metrics import Metrics
from coalmine.retraining._parameters import RunKind
from coalmine.retraining._peers import PeerError, Peers, Rollout
from coalmine.retraining._policy import Situation, judge
from coalmine.retraining._registry import MlflowRegistry
from coalmine.retraining._standing import Standing, standing
from coalmine.retraining._store import Store
from coalmine.retraining._types import Ask, Judgement, Run, Trigger
from coalmine.spec import ServiceSpec

_log = logging.getLogger(__name__)
#: What a judgement looks back at; the longest row of rejections and failures that matters.
_LOOK_BACK = 200
_TRIES = 5
RESET = "reset"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of asks that came together."""

    fates: Mapping[str, int]
    run: Run | None
    """The run that one of them started."""

    reason: str
    """Why the last of them started none."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    asks: Sequence[Ask]
    marks: Mapping[str, float]
    answer: asyncio.Future[Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Intake:
    """Judges asks. Used from one event loop; other processes may use the same database."""

    def __init__(
        self,
        service: ServiceSpec,
        *,
        store: Store,
        registry: MlflowRegistry,
        peers: Peers,
        metrics: Metrics,
        features: Callable[[str], Collection[str] | None],
        clock: Clock,
    ) -> None:
        self._service = service
        self._store = store
        self._registry = registry
        self._peers = peers
        self._metrics = metrics
        self._features = features
        self._clock = clock
        self._judging = asyncio.Lock()
        self._queue: list[_Waiting] = []
        self.wake = asyncio.Event()
        """Set when there may be something to do."""

    async def submit(
        self, asks: Sequence[Ask], *, marks: Mapping[str, float] | None = None
    ) -> Answer:
        """Judge asks and record their fates, durably; `marks` are set in the same transaction."""
        waiting = _Waiting(asks, marks or {})
        self._queue.append(waiting)
        async with self._judging:
            if not waiting.answer.done():
                await self._judge_queue()
        return await waiting.answer

    async def standing(self) -> Standing:
        """Where the service stands after its runs so far."""
        champion = await asyncio.to_thread(self._registry.champion)
        return await self._standing(champion, await self._runs())

    async def settle(self, rollouts: Sequence[Rollout]) -> None:
        """Note how the rollouts of our runs have ended."""
        ended = {rollout.id: rollout.state for rollout in rollouts if rollout.over}
        for run in await self._runs():
            if run.rollout in ended and run.verdict is None:
                verdict = ended[run.rollout]
                await asyncio.to_thread(self._store.change_run, run.id, verdict=verdict)

    # -- judging -----------------------------------------------------------------------------------

    async def _judge_queue(self) -> None:
        """Answer all that wait now; a failure is the answer of all of them."""
        queue, self._queue = self._queue, []
        try:
            for _ in range(_TRIES):
                try:
                    answers = await self._judge(queue)
                    break
                except sqlite3.IntegrityError:  # another process has just started a run: look again
                    continue
            else:
                raise StoreBusy("other retrainers start runs in the same database; try again")
        except BaseException as error:
            shown = error if isinstance(error, Exception) else RetrainingError("stopping")
            for waiting in queue:
                waiting.answer.set_exception(shown)
                waiting.answer.exception()  # whoever has left does not ask for it
            raise
        for waiting, answer in zip(queue, answers, strict=True):
            waiting.answer.set_result(answer)
        self.wake.set()

    async def _judge(self, queue: Sequence[_Waiting]) -> list[Answer]:
        situation = await self._situation()
        policy = self._service.retraining
        started: Run | None = None
        answers: list[Answer] = []
        triggers: list[Trigger] = []
        codes: Counter[str] = Counter()
        for waiting in queue:
            fates: Counter[str] = Counter()
            own, reason = None, ""
            for ask in waiting.asks:
                judgement = judge(ask, situation, policy)
                if judgement.fate == "accepted" and started is not None:
                    judgement = Judgement("merged", "", f"into run {started.id}")
                elif judgement.fate == "accepted":
                    own = started = _run_for(ask, situation)
                owner = _owner(judgement, started, situation)
                triggers.append(Trigger.of(ask, judgement, run=owner, now=situation.now))
                fates[judgement.fate] += ask.count
                codes[judgement.code] += ask.count
                reason = judgement.reason
            answers.append(Answer(dict(fates), own, reason))
        marks = {name: time for waiting in queue for name, time in waiting.marks.items()}
        await asyncio.to_thread(self._store.note_triggers, triggers, run=started, marks=marks)
        self._count(answers, codes)
        return answers

    def _count(self, answers: Iterable[Answer], codes: Mapping[str, int]) -> None:
        for answer in answers:
            for fate, times in answer.fates.items():
                self._metrics.triggers(fate, times)
        for code, times in codes.items():
            if code:
                self._metrics.suppressed(code, times)

    async def _situation(self) -> Situation:
        """What a judgement needs; a silent peer is asked again before a run starts."""
        champion = await asyncio.to_thread(self._registry.champion)
        runs = await self._runs()
        active = next((run for run in runs if run.active), None)
        incident, rollout = None, None
        if active is None:  # else all that could start one is merged
            try:
                incident = (await self._peers.quality(self._features(champion or ""))).incident
                rollouts = await self._peers.rollouts()
                await self.settle(rollouts)
                runs = await self._runs()
                rollout = next((r.version for r in rollouts if not r.over), None)
            except PeerError as error:
                _log.warning("judging without a peer's answer: %s", error)
        return Situation(
            now=self._clock.time(),
            model_name=self._service.name,
            champion=champion,
            active=active,
            standing=await self._standing(champion, runs),
            rollout=rollout,
            quality_incident=incident,
        )

    async def _runs(self) -> list[Run]:
        return await asyncio.to_thread(self._store.runs, limit=_LOOK_BACK)

    async def _standing(self, champion: str | None, runs: Sequence[Run]) -> Standing:
        reset_at = await asyncio.to_thread(self._store.mark, RESET)
        return standing(runs, champion=champion, reset_at=reset_at)


def _owner(judgement: Judgement, started: Run | None, situation: Situation) -> str | None:
    run = started or situation.active
    return run.id if run is not None and judgement.fate != "suppressed" else None


def _run_for(ask: Ask, situation: Situation) -> Run:
    kind: RunKind = "bootstrap" if situation.champion is None else "retrain"
    changes: dict[str, Any] = {}
    if ask.starts_at is not None:
        changes = {"since": ask.onset, "alerted": ask.starts_at}
    return Run(
        id=_new_id(kind, situation.now),
        kind=kind,
        reason=ask.reason,
        actor=ask.actor,
        created=situation.now,
        model_version=situation.champion or "",
        **changes,
    )


def _new_id(kind: str, now: float) -> str:
    """Sorts by time, and says what it is: `retrain-1795256951-3f2a`."""
    return f"{kind}-{int(now)}-{uuid.uuid4().hex[:4]}"
