"""Supervision as the one who kills things sees it; the children are real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from coalmine.clock import SYSTEM_CLOCK
from coalmine.stack._child import ChildSpec
from coalmine.stack._supervisor import Supervisor

SLEEP = "import time\ntime.sleep(600)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n"
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(clock=SYSTEM_CLOCK, changed=lambda: None)
    yield supervisor
    await supervisor.stop(supervisor.names(), grace=0.1)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def child(directory: Path, code: str, name: str = "part") -> ChildSpec:
    command = (sys.executable, "-I", "-c", code)
    return ChildSpec(name, command, "http://127.0.0.1:1", directory / f"{name}.log")


def only_pid(supervisor: Supervisor) -> int:
    (part,) = supervisor.parts()
    assert part.pid is not None
    return part.pid


async def test_a_killed_child_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(child(tmp_path, SLEEP))
    await until(lambda: supervisor.parts()[0].pid is not None)
    first = only_pid(supervisor)
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.parts()[0].pid not in (None, first), seconds=2)
    assert supervisor.parts()[0].restarts == 1


async def test_a_child_that_cannot_live_is_tried_less_and_less(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(child(tmp_path, "print('born', flush=True); raise SystemExit(3)"))
    await asyncio.sleep(2.0)
    assert 3 <= (tmp_path / "part.log").read_text().count("born") <= 5


async def test_a_program_that_is_not_there_is_told_in_its_log(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    log = tmp_path / "part.log"
    supervisor.start(ChildSpec("part", ("/no/such/program",), "http://127.0.0.1:1", log))
    await until(lambda: log.exists() and "No such file" in log.read_text())


async def test_one_that_ignores_sigterm_is_killed_in_time(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(child(tmp_path, STUBBORN + SLEEP))
    await until(lambda: (tmp_path / "part.log").exists())
    await until(lambda: "up" in (tmp_path / "part.log").read_text())
    pid = only_pid(supervisor)
    async with asyncio.timeout(2):
        await supervisor.stop(["part"], grace=0.5)
    assert not psutil.pid_exists(pid)
    assert supervisor.parts() == ()


async def test_what_a_child_started_goes_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    supervisor.start(child(tmp_path, PARENT + SLEEP))
    await until(lambda: log.exists() and log.read_text().endswith("\n"))
    grandchild = int(log.read_text())
    os.kill(only_pid(supervisor), signal.SIGKILL)
    await until(lambda: not _runs(grandchild))


async def test_stopped_while_it_waits_to_restart_it_stays_stopped(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(child(tmp_path, "raise SystemExit(1)"))
    await asyncio.sleep(0.8)
    await supervisor.stop(["part"], grace=1.0)
    size = (tmp_path / "part.log").stat().st_size
    await asyncio.sleep(0.5)
    assert (tmp_path / "part.log").stat().st_size == size
    assert supervisor.parts() == ()


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from coalmine.clock import SYSTEM_CLOCK
        from coalmine.stack._child import ChildSpec
        from coalmine.stack._supervisor import Supervisor

        async def main():
            supervisor = Supervisor(clock=SYSTEM_CLOCK, changed=lambda: None)
            log = Path(sys.argv[1]) / "part.log"
            command = (sys.executable, "-I", "-c", "import time; time.sleep(600)")
            supervisor.start(ChildSpec("part", command, "http://127.0.0.1:1", log))
            while supervisor.parts()[0].pid is None:
                await asyncio.sleep(0.01)
            print(supervisor.parts()[0].pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    command = (sys.executable, "-c", program, str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _runs(pid)
        parent.kill()
        parent.wait()
        for _ in range(500):
            if not _runs(pid):
                return
            time.sleep(0.01)
    pytest.fail("the child outlived its supervisor")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
