"""A part that hangs is killed and started again; one that answers is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil

from coalmine.clock import SYSTEM_CLOCK
from coalmine.stack._child import ChildSpec
from coalmine.stack._liveness import keep_answering
from coalmine.stack._supervisor import Supervisor

SERVER = """
import http.server, sys
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


async def _until_listening(log: Path) -> int:
    async with asyncio.timeout(60):
        while not (log.exists() and log.read_text().strip()):
            await asyncio.sleep(0.02)
    return int(log.read_text().split()[0])


async def test_a_part_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    supervisor = Supervisor(clock=SYSTEM_CLOCK, changed=lambda: None)
    command = (sys.executable, "-I", "-c", SERVER)
    supervisor.start(ChildSpec("part", command, "http://127.0.0.1:1", log))
    try:
        port = await _until_listening(log)
        first = supervisor.pid_of("part")
        assert first is not None
        address = f"http://127.0.0.1:{port}/"
        watch = asyncio.create_task(
            keep_answering(supervisor, "part", address, looks=3, pause=0.1, timeout=2.0)
        )
        try:
            async with asyncio.timeout(60):
                while log.read_text().count(" 200 ") < 3:
                    await asyncio.sleep(0.05)
            assert supervisor.pid_of("part") == first, "it answers"
            os.kill(first, signal.SIGSTOP)
            async with asyncio.timeout(60):
                while supervisor.pid_of("part") in (None, first):
                    await asyncio.sleep(0.05)
            assert not psutil.pid_exists(first)
        finally:
            watch.cancel()
            await asyncio.wait({watch})
    finally:
        await supervisor.stop(supervisor.names(), grace=0.1)


async def test_another_process_than_the_one_that_hung_is_not_killed(tmp_path: Path) -> None:
    supervisor = Supervisor(clock=SYSTEM_CLOCK, changed=lambda: None)
    command = (sys.executable, "-I", "-c", "import time; time.sleep(600)")
    supervisor.start(ChildSpec("part", command, "http://127.0.0.1:1", tmp_path / "part.log"))
    try:
        async with asyncio.timeout(60):
            while (pid := supervisor.pid_of("part")) is None:
                await asyncio.sleep(0.02)
        supervisor.kill("part", pid + 1)
        supervisor.kill("no such part", pid)
        await asyncio.sleep(0.2)
        assert supervisor.pid_of("part") == pid
    finally:
        await supervisor.stop(supervisor.names(), grace=0.1)
