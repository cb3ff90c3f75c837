"""A nursery of rollout controllers: each is forked from a process that has everything imported.

    python -m coalmine_loadtests.rollout._controller GROUND_JSON

A line on the standard input makes a controller; its pid is a line on the standard output. A process
that is to be killed five hundred times should not take longer to start than it lives.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from coalmine.clock import SYSTEM_CLOCK
from coalmine.gateway import EnvoyGateway
from coalmine.rollout._champion import FencedRegistry
from coalmine.rollout._controller import Controller
from coalmine.rollout._judge import Judge
from coalmine.rollout._source import MonitorEvidence
from coalmine.rollout._store import Store
from coalmine.rollout._world import World
from coalmine.stack import LocalArmHost
from coalmine_loadtests.rollout._ground import Ground
from coalmine_loadtests.rollout._registry import Registry

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


async def _control(ground: Ground) -> None:
    async with AsyncExitStack() as stack:
        store = Store(ground.database, clock=SYSTEM_CLOCK)
        stack.callback(store.close)
        gateway = await stack.enter_async_context(
            EnvoyGateway(ground.envoy, admin_url=ground.admin_url, routing=ground.routing)
        )
        host = LocalArmHost(ground.arms_file, model_name=ground.name, ports=ground.arm_ports)
        source = MonitorEvidence(ground.evidence_url, block_s=ground.block_s)
        stack.push_async_callback(source.aclose)
        judge = Judge(source, clock=SYSTEM_CLOCK)
        champion = ground.registry.with_suffix(".champion")
        registry = FencedRegistry(Registry(ground.registry), champion)
        world = World(gateway, host, registry)
        await Controller(store, world=world, judge=judge, clock=SYSTEM_CLOCK).run()


def main() -> None:
    """Fork a controller for every line read; end with the input."""
    ground = Ground.read(Path(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The dead are not waited for.
    children: list[int] = []
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Whatever ends the nursery ends them too: a stray controller would go on deciding.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            asyncio.run(_control(ground))
            os._exit(0)
        children.append(child)
        print(child, flush=True)
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
