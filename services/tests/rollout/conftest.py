"""A rollout controller in a world of files, with a clock that is moved by hand."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coalmine.clock import ManualClock
from coalmine.rollout._commands import Command, command, start
from coalmine.rollout._controller import Controller
from coalmine.rollout._judge import Judge
from coalmine.rollout._state import Rollout
from coalmine.rollout._store import Store
from coalmine.rollout._world import World
from coalmine.spec import RolloutSpec, ShadowSpec, StepSpec

from .data_planes import OnCluster
from .fakes import FileWorld, Traffic

POLICY = RolloutSpec(
    shadow=ShadowSpec(min_time=8.0),
    steps=(StepSpec(weight=10, min_time=8.0), StepSpec(weight=50, min_time=8.0)),
    max_duration=600.0,
)


@dataclass
class Stage:
    """One controller and all it acts upon. `restart` is what a new process would be."""

    root: Path
    clock: ManualClock
    world: FileWorld
    traffic: Traffic
    policy: RolloutSpec = POLICY
    make_store: Callable[..., Store] = Store
    _stores: list[Store] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    @property
    def database(self) -> Path:
        return self.root / "rollout.db"

    def new_controller(self) -> tuple[Store, Controller]:
        store = self.make_store(self.database, clock=self.clock)
        self._stores.append(store)
        judge = Judge(self.traffic, clock=self.clock)
        world = World(self.world, self.world, self.world)
        return store, Controller(store, world=world, judge=judge, clock=self.clock)

    def restart(self) -> None:
        self.store, self.controller = self.new_controller()

    def die(self) -> None:
        """The controller's process is gone, as after a SIGKILL, and another one starts."""
        gone = f"{socket.gethostname()}:0:0.0:gone"
        self.store._db.execute("UPDATE lease SET owner = ? WHERE owner != ''", (gone,))
        self.restart()

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def start(self, version: str, *, shadow: bool = True, policy: RolloutSpec | None = None) -> str:
        rollout = start(
            self.store,
            self.world,
            version=version,
            policy=policy or self.policy,
            shadow=shadow,
            reason="a test",
            actor="tester",
            clock=self.clock,
        )
        return rollout.id

    def command(self, id: str, what: Command) -> Rollout:
        return command(self.store, id, what, actor="tester", clock=self.clock)

    def rollout(self, id: str) -> Rollout:
        return self.store.rollout(id)

    async def tick(self, seconds: float = 0.0, *, step: float = 1.0) -> None:
        """Let time pass, with a tick at every step of it."""
        await self.controller.tick()
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            self.clock.advance(step)
            await self.controller.tick()

    async def until(
        self, reached: Callable[[], bool], *, limit: float = 300.0, step: float = 1.0
    ) -> float:
        """Tick until something is so; how long that took, in seconds."""
        begin = self.clock.monotonic()
        while not reached():
            if self.clock.monotonic() - begin > limit:
                raise AssertionError(
                    f"not within {limit} s; note: {self.controller.note}; rollouts: "
                    f"{[(r.id, r.state, r.stage) for r in self.store.rollouts()]}"
                )
            self.clock.advance(step)
            await self.controller.tick()
        return self.clock.monotonic() - begin

    async def until_ended(self, id: str, *, limit: float = 300.0, step: float = 1.0) -> Rollout:
        await self.until(lambda: not self.rollout(id).under_way, limit=limit, step=step)
        return self.rollout(id)

    async def with_champion(self, version: str = "3") -> None:
        """A first champion, promoted."""
        await self.until_ended(self.start(version))
        await self.tick()


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[OnCluster]:
    """A cluster with version 3 on stable and 4 on the canary: of the kind that is asked for."""
    plane: OnCluster = request.param()
    try:
        plane.deploy()
        yield plane
    finally:
        plane.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    clock = ManualClock(start=1_000_000.0)
    world = FileWorld(tmp_path / "world", clock)
    for version in ("3", "4"):
        world.add_version(version)
    traffic = Traffic(world, clock, accuracy={"3": 0.95, "4": 0.95})
    made = Stage(tmp_path, clock, world, traffic)
    yield made
    made.close()
