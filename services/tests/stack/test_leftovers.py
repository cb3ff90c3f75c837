"""Records of servers that were killed reach the collector when their arm is retired."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK
from coalmine.records import RecordLog, create_collector, open_log, spool_stats
from coalmine.stack import StateDirectory
from coalmine.stack._leftovers import Leftovers

from .conftest import served

#: A server that is killed before it could deliver: nothing listens at its sink.
KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import InferenceRecord, RecordEmitter

x, y = (
    Tensor(name=name, datatype="FP32", shape=(-1, 1), columns=(Column(name=name),))
    for name in ("x", "y")
)
card = ModelCard(name="toy", inputs=(x,), outputs=(y,))
spool, sink = Path(sys.argv[1]), "http://127.0.0.1:9"
emitter = RecordEmitter(spool, sink, card=card, model_version="1", arm="canary")
value = np.zeros((1, 1), np.float32)
for number in range(5):
    emitter.emit(InferenceRecord(f"r{number}", 1e9 + number, "v2", 900, {"x": value}, {"y": value}))
os.kill(os.getpid(), 9)
"""


@asynccontextmanager
async def delivering(leftovers: Leftovers, running: set[Arm]) -> AsyncIterator[None]:
    task = asyncio.create_task(leftovers.deliver(running))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until_rows(log: RecordLog, count: int) -> None:
    async with asyncio.timeout(30):
        while log.stats().rows < count:
            await asyncio.sleep(0.05)


async def test_what_a_killed_server_left_is_delivered_once_its_arm_is_retired(
    tmp_path: Path,
) -> None:
    state = StateDirectory(tmp_path)
    state.create()
    spool = state.spool("canary")
    command = [sys.executable, "-c", KILLED, str(spool)]
    killed = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    log = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    running = {Arm.CANARY}
    async with served(create_collector(log, clock=SYSTEM_CLOCK)) as url:
        leftovers = Leftovers(state, collector=url)
        async with delivering(leftovers, running):
            await asyncio.sleep(0.3)
            assert log.stats().rows == 0, "its next server delivers them"
        running.clear()
        async with leftovers.lock(Arm.CANARY), delivering(leftovers, running):
            await asyncio.sleep(0.3)
            assert log.stats().rows == 0, "it is being started"
        async with delivering(leftovers, running):
            await until_rows(log, 5)
    assert spool_stats(spool).pending_rows == 0
    log.close()


async def test_a_collector_that_is_away_is_waited_for(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.create()
    command = [sys.executable, "-c", KILLED, str(state.spool("shadow"))]
    await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    log = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    async with delivering(Leftovers(state, collector="http://127.0.0.1:9"), set()):
        await asyncio.sleep(0.3)
    assert spool_stats(state.spool("shadow")).pending_rows == 5
    async with served(create_collector(log, clock=SYSTEM_CLOCK)) as url:
        async with delivering(Leftovers(state, collector=url), set()):
            await until_rows(log, 5)
    log.close()
