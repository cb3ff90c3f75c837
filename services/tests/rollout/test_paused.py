"""Two controllers, each stopped for longer than its lease lives and continued, in random turns."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from coalmine.rollout import RolloutRefused
from coalmine.rollout._commands import start
from coalmine.rollout._store import Store

from .fakes import FileWorld
from .stories import QUICK, FastClock, decided

PAUSES = int(os.environ.get("COALMINE_PAUSES", "6"))


def controller(root: Path, stack: ExitStack) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("roll_beside.py")
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, str(script), str(root)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(script.parent.parent)},
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def keep_rolling(store: Store, world: FileWorld, clock: FastClock) -> None:
    """Some rollout is always under way."""
    # One that was stopped within a transaction locks the database until it is continued.
    with suppress(sqlite3.OperationalError):
        _start_any(store, world, clock)


def _start_any(store: Store, world: FileWorld, clock: FastClock) -> None:
    if store.view().rollout is None:
        for version in ("3", "4"):
            try:
                start(
                    store,
                    world,
                    version=version,
                    policy=QUICK.model_copy(update={"cooldown": 0.0}),
                    shadow=True,
                    reason="",
                    actor="test",
                    clock=clock,
                )
            except RolloutRefused:
                continue


@pytest.mark.slow
def test_a_controller_that_was_stopped_writes_nothing_after_another_took_over(
    tmp_path: Path,
) -> None:
    clock, chance = FastClock(30.0), random.Random(3)
    world = FileWorld(tmp_path / "world", clock)
    for version in ("3", "4"):
        world.add_version(version)
    store = Store(tmp_path / "rollout.db", clock=clock)
    with ExitStack() as stack:
        stack.callback(store.close)
        both = [controller(tmp_path, stack) for _ in range(2)]
        for turn in range(PAUSES):
            keep_rolling(store, world, clock)
            time.sleep(chance.uniform(0.0, 0.5))
            stopped = both[turn % 2]
            stopped.send_signal(signal.SIGSTOP)
            until = time.monotonic() + 1.6
            while time.monotonic() < until:
                keep_rolling(store, world, clock)
                time.sleep(0.05)
            stopped.send_signal(signal.SIGCONT)
        for process in both:
            process.terminate()
        assert [process.wait(20) for process in both] == [0, 0]
        routes = json.loads((tmp_path / "world" / "routes.json").read_text())
        tokens = [entry["token"] for entry in routes]
        assert tokens == sorted(tokens), "an overtaken controller wrote a weight"
        assert len(set(tokens)) > 1, "nobody was overtaken"
        assert not (tmp_path / "world" / "misrouted.log").exists()
        allowed = decided(store)
        assert all(plan in allowed for _, plan in world.plans())
