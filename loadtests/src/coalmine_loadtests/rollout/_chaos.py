"""`kill -9` of the controller at random instants of rollouts under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK
from coalmine.gateway import EnvoyGateway
from coalmine.rollout import RolloutRefused, replay
from coalmine.rollout._commands import Command, command, start
from coalmine.rollout._state import Phase, Rollout
from coalmine.rollout._store import Store
from coalmine.spec import GuardsSpec, RolloutSpec, ShadowSpec, StepSpec
from coalmine.stack import read_arms
from coalmine_loadtests.bench import BenchError
from coalmine_loadtests.rollout._ground import Ground, running
from coalmine_loadtests.rollout._load import Load
from coalmine_loadtests.rollout._registry import SICK, Registry
from coalmine_loadtests.rollout._watch import Watch

__all__ = ["ChaosOptions", "ChaosReport", "Kill", "run_chaos"]

#: Quick to decide: what is tried is the way, not the judge.
_POLICY = RolloutSpec(
    shadow=ShadowSpec(min_time=0.3),
    steps=(StepSpec(weight=10, min_time=0.3), StepSpec(weight=50, min_time=0.3)),
    guards=GuardsSpec(error_rate=0.2, slow_rate=0.8, accuracy=0.2),
    significance=0.45,
    max_duration=20.0,
    on_insufficient="revert",
    cooldown=0.0,
)
#: A controller lives for up to this long, in seconds; a rollout takes several lives.
_LONGEST_LIFE = 1.6
#: Of the lives, those that are not ended before they have the lease, and how long that may take.
_ACTS, _PATIENCE_S = 0.85, 10.0
#: Seconds after a change of phase: its effects come in the first hundredths, the next look within
#: a little more than the controller's tick.
_AFTER = (0.02, 0.1, 0.6)
#: Of the rollouts, those that somebody interferes with, and how.
_INTERFERES = 0.3
#: Of the lives that find a rollout held, those in which it may go on.
_RESUMES = 0.5
_COMMANDS: tuple[Command, ...] = ("abort", "promote", "pause", "resume")
#: The phases in which the outcome is decided and the world is brought to it.
_DECIDED = {
    **dict.fromkeys((Phase.SWITCH, Phase.REPLACE, Phase.SETTLE, Phase.RECORD), "promotion"),
    Phase.REVERT: "rollback",
}
#: How long the last controller has to bring everything to rest, in seconds.
_REST_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What to do."""

    kills: int = 500
    seed: int = 0
    connections: int = 4
    directory: Path | None = None
    """Where everything is kept; None: a temporary directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """An instant at which a controller died, as its database tells."""

    time: float
    rollout: str | None
    """The one that was under way; None: none was."""

    state: str
    """`idle`, `pending`, `shadowing`, `stepping`, `holding`, `promotion` or `rollback`."""

    phase: str
    since_entry: float | None
    """Seconds since the rollout's newest entry in the ledger: right after it come its effects."""

    acting: bool
    """Whether it had the lease already."""

    @classmethod
    def of(cls, store: Store, pid: int) -> Self:
        """As it is now; call it when the controller is dead."""
        now, rollout, acting = SYSTEM_CLOCK.time(), store.view().rollout, _acts(store, pid)
        if rollout is None:
            return cls(
                time=now, rollout=None, state="idle", phase="idle", since_entry=None, acting=acting
            )
        return cls(
            time=now,
            rollout=rollout.id,
            state=_DECIDED.get(rollout.phase, rollout.state),
            phase=rollout.phase.value,
            since_entry=now - store.ledger(rollout.id)[-1].time,
            acting=acting,
        )


@dataclass(slots=True)
class ChaosReport:
    """What happened."""

    killed: list[Kill] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    plans: int = 0
    """How often the weights at Envoy changed."""

    undecided: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    """What was not as it should be when all had come to rest."""

    verdicts: int = 0
    replayed_otherwise: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """How often a controller was killed."""
        return len(self.killed)

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be."""
        return not (self.failed or self.undecided or self.unsettled or self.replayed_otherwise)


def run_chaos(
    options: ChaosOptions, *, progress: Callable[[ChaosReport], None] = lambda report: None
) -> ChaosReport:
    """Kill the controller many times; `progress` is called after every kill."""
    with tempfile.TemporaryDirectory(prefix="coalmine-chaos-") as temporary:
        root = (options.directory or Path(temporary)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_Chaos(options, Ground.make(root), progress).run())


class _Chaos:
    def __init__(
        self, options: ChaosOptions, ground: Ground, progress: Callable[[ChaosReport], None]
    ) -> None:
        self._options = options
        self._ground = ground
        self._progress = progress
        self._chance = random.Random(options.seed)
        self._registry = Registry(ground.registry)
        self._report = ChaosReport()
        self._versions = 0

    async def run(self) -> ChaosReport:
        ground, began = self._ground, SYSTEM_CLOCK.monotonic()
        store = Store(ground.database, clock=SYSTEM_CLOCK)
        load, watch = Load(ground, connections=self._options.connections), Watch(ground)
        module = (sys.executable, "-m", "coalmine_loadtests.rollout._controller")
        log = ground.root / "controllers.log"
        async with AsyncExitStack() as stack:
            stack.callback(store.close)
            await stack.enter_async_context(ground.up())
            nursery = await stack.enter_async_context(
                running((*module, str(ground.file)), log, stdin=PIPE, stdout=PIPE)
            )
            await stack.enter_async_context(watch.watching())
            await self._first_champion(store, nursery)
            await stack.enter_async_context(load.flowing())
            await self._kill_on_and_on(store, nursery)
            pid = await _new_controller(nursery)
            await self._come_to_rest(store)
            os.kill(pid, signal.SIGKILL)
        return self._concluded(load, watch, seconds=SYSTEM_CLOCK.monotonic() - began)

    async def _first_champion(self, store: Store, nursery: Process) -> None:
        pid = await _new_controller(nursery)
        self._offer(store)
        await self._come_to_rest(store)
        os.kill(pid, signal.SIGKILL)

    async def _kill_on_and_on(self, store: Store, nursery: Process) -> None:
        while self._report.kills < self._options.kills:
            pid = await _new_controller(nursery)
            self._meddle(store)
            await self._let_live(store, pid)
            os.kill(pid, signal.SIGKILL)
            self._report.killed.append(Kill.of(store, pid))
            self._progress(self._report)

    async def _let_live(self, store: Store, pid: int) -> None:
        """A random time; in half of the lives, one that begins with a change of phase.

        Most of a rollout is waiting for evidence, and most of what can go wrong is not in there. In
        most lives it has the lease before: on a busy machine it would hardly ever get that far.
        """
        if self._chance.random() < _ACTS:
            patience = SYSTEM_CLOCK.monotonic() + _PATIENCE_S
            while not _acts(store, pid) and SYSTEM_CLOCK.monotonic() < patience:
                await asyncio.sleep(0.01)
        until = SYSTEM_CLOCK.monotonic() + self._chance.uniform(0.0, _LONGEST_LIFE)
        eager, before = self._chance.random() < 0.5, _moment(store)
        while SYSTEM_CLOCK.monotonic() < until:
            if eager and _moment(store) != before:
                await asyncio.sleep(self._chance.uniform(0.0, self._chance.choice(_AFTER)))
                return
            await asyncio.sleep(0.01)

    def _meddle(self, store: Store) -> None:
        """Offer the next version if none is under way; at times, a person has an opinion."""
        rollout = store.view().rollout
        if rollout is None:
            self._offer(store)
        elif rollout.held is not None:
            if self._chance.random() < _RESUMES:
                self._command(store, rollout, "resume")
        elif self._chance.random() < _INTERFERES:
            self._command(store, rollout, self._chance.choice(_COMMANDS))

    def _command(self, store: Store, rollout: Rollout, what: Command) -> None:
        try:
            command(store, rollout.id, what, actor="chaos", clock=SYSTEM_CLOCK)
        except RolloutRefused:
            pass  # It is past that.

    def _offer(self, store: Store) -> None:
        self._versions += 1
        sick = self._versions > 1 and self._chance.random() < 0.4
        version = f"{SICK if sick else 'v'}-{self._versions}"
        self._registry.add(version)
        try:
            start(
                store,
                self._registry,
                version=version,
                policy=_POLICY.model_copy(update={"baseline": self._chance.random() < 0.5}),
                shadow=self._chance.random() < 0.7,
                reason="",
                actor="chaos",
                clock=SYSTEM_CLOCK,
            )
        except RolloutRefused:
            pass  # The champion is not adopted yet.

    async def _come_to_rest(self, store: Store) -> None:
        until = SYSTEM_CLOCK.monotonic() + _REST_S
        while SYSTEM_CLOCK.monotonic() < until:
            view = store.view()
            if view.rollout is not None and view.rollout.held is not None:
                self._command(store, view.rollout, "resume")
            self._report.unsettled = await self._unsettled(store)
            if not self._report.unsettled:
                return
            await asyncio.sleep(0.1)

    async def _unsettled(self, store: Store) -> list[str]:
        """In which ways the world is not as the database says, or a rollout is under way."""
        view, ground = store.view(), self._ground
        async with EnvoyGateway(
            ground.envoy, admin_url=ground.admin_url, routing=ground.routing
        ) as gateway:
            plan = await gateway.applied()
        arms = {arm: model.version for arm, model in read_arms(ground.arms_file).arms.items()}
        stable = None if view.serving.stable is None else view.serving.stable.version
        checks = {
            f"{view.rollout and view.rollout.id} is under way": view.rollout is None,
            f"the arms are {arms}, stable is {stable}": arms == {Arm.STABLE: stable},
            f"Envoy has {plan}": plan is not None
            and plan.decision_id == view.serving.decision_id
            and dict(plan.weights) == {Arm.STABLE: 100}
            and plan.mirror is None,
            f"the registry's champion is {self._registry.champion()}, stable is {stable}": (
                self._registry.champion() == stable
            ),
        }
        return [problem for problem, fine in checks.items() if not fine]

    def _concluded(self, load: Load, watch: Watch, *, seconds: float) -> ChaosReport:
        report = self._report
        store = Store(self._ground.database, clock=SYSTEM_CLOCK)
        try:
            report.outcomes = store.outcomes()
            report.undecided = watch.undecided(store)
            ids = [rollout.id for rollout in store.rollouts()]
        finally:
            store.close()
        for id in ids:
            verdicts = replay(self._ground.database, id)
            report.verdicts += len(verdicts)
            report.replayed_otherwise += sum(not each.same for each in verdicts)
        report.requests, report.failed = load.sent, load.failed
        report.plans, report.seconds = len(watch.seen), seconds
        return report


def _acts(store: Store, pid: int) -> bool:
    held = store.lease()
    return held is not None and held.owner.split(":")[1] == str(pid)


def _moment(store: Store) -> object:
    rollout = store.view().rollout
    return None if rollout is None else (rollout.id, rollout.phase, rollout.step)


async def _new_controller(nursery: Process) -> int:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(b"\n")
    line = await asyncio.wait_for(nursery.stdout.readline(), 60.0)
    if not line:
        raise BenchError("no controller starts; see controllers.log in --directory")
    return int(line)
