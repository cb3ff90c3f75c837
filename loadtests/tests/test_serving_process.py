"""A pinned process is accounted for with its children, and takes them along when it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from coalmine_loadtests.serving._process import PinnedProcess

# A parent that ignores what it is told, with a child that computes.
FAMILY = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print("child", child.pid, flush=True)
child.wait()
"""
CORE = min(os.sched_getaffinity(0))


def child_of(log: Path) -> psutil.Process:
    give_up = time.monotonic() + 30
    while "child" not in log.read_text():
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return psutil.Process(int(log.read_text().split()[1]))


def test_children_count_and_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalmine_loadtests.serving._process._STOP_S", 0.5)
    log = tmp_path / "log"
    with PinnedProcess([sys.executable, "-c", FAMILY], core=CORE, log=log) as process:
        child = child_of(log)
        assert child.cpu_affinity() == [CORE]
        while child.cpu_times().user < 0.05:
            time.sleep(0.02)
        assert process.cpu_seconds() >= 0.05
        memory = process.memory()
        assert memory.rss_mb >= memory.pss_mb > 1
        assert process.ended is None
    assert process.ended is not None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print('fine'); raise SystemExit('it FAILED because')", "it FAILED because"),
        ("print('only this'); raise SystemExit(3)", "only this"),
    ],
)
def test_what_it_told_is_about_its_errors(code: str, told: str, tmp_path: Path) -> None:
    with PinnedProcess([sys.executable, "-c", code], core=CORE, log=tmp_path / "log") as process:
        give_up = time.monotonic() + 30
        while process.ended is None:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        assert process.ended != 0
        assert process.told() == told
