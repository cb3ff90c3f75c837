"""One of several controllers on one world, made to be stopped and continued; runs until told.

Time passes faster than on the wall, by a factor that leaves a lease a second.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from rollout.fakes import FileWorld, Traffic
from rollout.stories import FastClock

from coalmine.rollout._controller import Controller
from coalmine.rollout._judge import Judge
from coalmine.rollout._store import Store
from coalmine.rollout._world import World


async def main(root: Path) -> None:
    clock = FastClock(30.0)
    world = FileWorld(root / "world", clock, start_up=1.0)
    traffic = Traffic(world, clock, accuracy={"3": 0.6, "4": 0.95})
    store = Store(root / "rollout.db", clock=clock)
    judge = Judge(traffic, clock=clock)
    controller = Controller(store, world=World(world, world, world), judge=judge, clock=clock)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    print("up", flush=True)
    while not told.is_set():
        await controller.tick()
        await asyncio.sleep(0.002)


asyncio.run(main(Path(sys.argv[1])))
