"""Bring a champion and then a candidate through a rollout, in a process made to be killed.

Time passes faster than on the wall. Exits 0 when both rollouts have ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rollout.fakes import FileWorld, Traffic
from rollout.stories import QUICK, FastClock

from coalmine.rollout._commands import start
from coalmine.rollout._controller import Controller
from coalmine.rollout._judge import Judge
from coalmine.rollout._store import Store
from coalmine.rollout._world import World


async def main(root: Path) -> None:
    # Slow enough that a restart on a busy machine is no absence (`DEAD_MAN`).
    clock = FastClock(6.0)
    world = FileWorld(root / "world", clock, start_up=1.0)
    traffic = Traffic(world, clock, accuracy={"3": 0.6, "4": 0.95})
    store = Store(root / "rollout.db", clock=clock)
    judge = Judge(traffic, clock=clock)
    controller = Controller(store, world=World(world, world, world), judge=judge, clock=clock)
    print("up", flush=True)
    for version in ("3", "4"):
        while True:
            mine = [r for r in store.rollouts() if r.candidate.version == version]
            if mine and not mine[0].under_way:
                break
            if not mine:
                start(
                    store,
                    world,
                    version=version,
                    policy=QUICK,
                    shadow=True,
                    reason="",
                    actor="script",
                    clock=clock,
                )
            await controller.tick()
            await asyncio.sleep(0.005)
    for _ in range(3):
        await controller.tick()


asyncio.run(main(Path(sys.argv[1])))
