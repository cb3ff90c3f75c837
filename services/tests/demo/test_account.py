"""The records' account, from spools on disk and the collector's statistics."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn

from coalmine.demo._account import Account, account_of, deliver_left_behind
from coalmine.records import create_collector, open_log

from .conftest import free_port


def test_a_state_without_spools_has_nothing_on_its_way(tmp_path: Path) -> None:
    assert account_of(tmp_path, None) == Account()
    (tmp_path / "spool" / "stable").mkdir(parents=True)
    assert account_of(tmp_path, {"rows": 3}) == Account(in_log=3)


@pytest.mark.parametrize(
    ("account", "settled"),
    [
        (Account(emitted=10, in_log=10), True),
        (Account(emitted=10, in_log=8, dropped=2), True),
        (Account(emitted=10, in_log=8, pending=2), False),
        (Account(emitted=10, in_log=9), False),
        (Account(emitted=10, in_log=11), False),
    ],
)
def test_settled(account: Account, settled: bool) -> None:
    assert account.settled is settled


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


async def test_what_a_dead_server_left_is_delivered(tmp_path: Path) -> None:
    spool = tmp_path / "spool" / "canary"
    command = [sys.executable, "-c", KILLED, str(spool)]
    killed = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert account_of(tmp_path, None) == Account(emitted=5, pending=5)
    log = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    config = uvicorn.Config(create_collector(log), port=free_port(), log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{config.port}"
        await asyncio.to_thread(deliver_left_behind, tmp_path, url)
    finally:
        server.should_exit = True
        await serving
    account = account_of(tmp_path, {"rows": log.stats().rows})
    log.close()
    assert account == Account(emitted=5, in_log=5)
    assert account.settled
