"""A monitor that is killed, or replays the log, comes to the same verdicts."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coalmine.records import LogUnavailableError, RecordLog
from coalmine_monitors import (
    _windows,
    create_drift_app,
    create_performance_app,
    create_quality_app,
)
from coalmine_monitors.performance import _monitor

FACTORIES: dict[str, Callable[..., Any]] = {
    "drift": create_drift_app,
    "quality": create_quality_app,
    "performance": create_performance_app,
}

#: Runs a monitor in a process of its own, in small steps, until it is killed.
CHILD = """
import time
from pathlib import Path
from coalmine.records import open_log
from coalmine.spec import ServiceSpec
import coalmine_monitors
from coalmine_monitors import _windows
from coalmine_monitors.performance import _monitor
import asyncio

_windows.READ_ROWS = _monitor.READ_ROWS = 200
app = getattr(coalmine_monitors, f"create_{kind}_app")(
    ServiceSpec.model_validate_json(spec),
    log=open_log(f"sqlite:///{root}/records.db"),
    state=Path(state),
    models=Path(root) / "models",
)

async def main():
    async with app.router.lifespan_context(app):
        await asyncio.sleep(3600)

asyncio.run(main())
"""

# A server that has done the imports forks the children at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["coalmine_monitors", "coalmine.records", "asyncio"])


def story(world: Any) -> None:
    """Everything that monitors react to."""

    def drifted(rows: Any) -> None:
        rows[:, :, 1] += 1.5

    def broken_sensor(rows: Any) -> None:
        rows[:, :, 3] += 3

    world.deploy("1")
    world.deploy("2")
    for _ in range(6):
        world.label(world.send(100, right=0.95))
    for _ in range(8):
        world.label(world.send(100, right=0.75, change=drifted))
    for _ in range(4):
        truth = world.send(100, change=broken_sensor)
        world.send(100, arm="shadow", version="2", ids=[name for name, _ in truth])
        world.label(truth[:80])
    for _ in range(5):
        world.label(world.send(100, version="2", right=0.95))
    world.now += 5
    world.send(1, version="2")


def cursors(state: Path) -> dict[str, int]:
    with closing(sqlite3.connect(state)) as connection:
        row = connection.execute("SELECT cursors FROM state").fetchone()
    return {} if row is None else dict(json.loads(row[0]))


def contents(state: Path) -> dict[str, list[Any]]:
    """What a monitor has concluded: every table, in order."""
    connection = sqlite3.connect(state)
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_")
    ]
    found = {
        name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall()
        for name in tables
    }
    connection.close()
    return found


async def consume(app: Any, run_app: Any) -> None:
    async with run_app(app) as client:
        await client.settled(timeout=100)


@pytest.mark.parametrize("kind", FACTORIES)
async def test_replaying_the_log_in_other_pieces_gives_identical_verdicts(
    world: Any, make_service: Any, run_app: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(world)
    found = []
    for rows in (1_000_000, 777):
        monkeypatch.setattr(_windows, "READ_ROWS", rows)
        monkeypatch.setattr(_monitor, "READ_ROWS", rows)
        state = world.root / f"{kind}-{rows}.db"
        app = FACTORIES[kind](make_service(), log=world.log, state=state, models=world.models)
        await consume(app, run_app)
        found.append(contents(state))
    assert found[0]["incidents"], "the story has something for every monitor"
    for tables in found:
        del tables["state"]  # it says when old rows were last deleted, which is no verdict
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTORIES)
async def test_killed_again_and_again_a_monitor_comes_to_the_same_verdicts(
    world: Any, make_service: Any, run_app: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(world)
    monkeypatch.setattr(_windows, "READ_ROWS", 200)
    monkeypatch.setattr(_monitor, "READ_ROWS", 200)
    plain, killed = world.root / "plain.db", world.root / "killed.db"
    app = FACTORIES[kind](make_service(), log=world.log, state=plain, models=world.models)
    await consume(app, run_app)
    FACTORIES[kind](make_service(), log=world.log, state=killed, models=world.models)

    chance = random.Random(13)
    kills, deadline = 0, time.monotonic() + 90
    names = {
        "kind": kind,
        "root": str(world.root),
        "spec": make_service().model_dump_json(),
        "state": str(killed),
    }
    while not world.consumed_by(killed) and time.monotonic() < deadline:
        child = PROCESSES.Process(target=exec, args=(CHILD, names), daemon=True)
        child.start()
        try:
            before = cursors(killed)
            while child.is_alive() and time.monotonic() < deadline:
                if cursors(killed) != before:
                    break
                time.sleep(0.002)
            # It works now: kill it in the middle, wherever that is.
            time.sleep(chance.random() * 0.02 * (kills + 1) ** 2)
        finally:
            child.kill()
            child.join()
            child.close()
        kills += 1
    assert kills > 2
    assert contents(plain) == contents(killed)


@pytest.mark.slow
async def test_two_monitors_on_one_state_file_count_nothing_twice(
    world: Any, make_service: Any, run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(world)
    monkeypatch.setattr(_monitor, "READ_ROWS", 200)
    shared, plain = world.root / "shared.db", world.root / "plain.db"
    make = lambda state: create_performance_app(  # noqa: E731 - three of the same
        make_service(), log=world.log, state=state, models=world.models
    )
    await consume(make(plain), run_app)
    async with run_app(make(shared)):
        await consume(make(shared), run_app)
    assert contents(shared) == contents(plain)


async def test_the_state_of_another_version_is_dropped_and_the_log_read_again(
    world: Any, make_service: Any, run_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.deploy()
    world.label(world.send(600, right=0.7))

    def app() -> Any:
        state = world.root / "performance.db"
        return create_performance_app(
            make_service(), log=world.log, state=state, models=world.models
        )

    async with run_app(app()) as client:
        before = await client.settled()
    with closing(sqlite3.connect(world.root / "performance.db")) as connection:
        connection.execute("PRAGMA user_version = 0")
        connection.execute("ALTER TABLE answers DROP COLUMN chance")
    async with run_app(app()) as client:
        assert await client.settled() == before
    assert before, "there was something to come to again"
    assert "the log is read again" in caplog.text


class Reluctant:
    """A log that is busy once so many reads have found something, until it is let."""

    def __init__(self, log: RecordLog, reads: int) -> None:
        self._log = log
        self.left = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, *args: Any, **more: Any) -> Any:
        found = self._log.read(*args, **more)
        if found:
            if self.left <= 0:
                raise LogUnavailableError("busy")
            self.left -= 1
        return found


async def lag_of(client: Any) -> float:
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("coalmine_monitor_lag_batches{")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


@pytest.mark.parametrize("kind", FACTORIES)
async def test_a_monitor_that_is_behind_says_so_and_skips_nothing(
    world: Any, make_service: Any, run_app: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(world)

    def made(log: Any, name: str) -> Any:
        return FACTORIES[kind](
            make_service(), log=log, state=world.root / f"{name}.db", models=world.models
        )

    async with run_app(made(world.log, f"{kind}-whole")) as client:
        await client.settled(timeout=100)
    monkeypatch.setattr(_windows, "READ_ROWS", 500)
    monkeypatch.setattr(_monitor, "READ_ROWS", 500)
    seen = []
    for reads in (1, 1, 10_000):  # twice it ends in the middle, and another goes on
        async with run_app(made(Reluctant(world.log, reads), f"{kind}-behind")) as client:
            if reads == 1:
                for _ in range(600):
                    if (lag := await lag_of(client)) > 0 and lag not in seen:
                        break
                    await asyncio.sleep(0.1)
                seen.append(lag)
            else:
                await client.settled(timeout=100)
                assert await lag_of(client) == 0
    assert seen[0] > seen[1] > 0
    found = [contents(world.root / f"{kind}-{name}.db") for name in ("whole", "behind")]
    for tables in found:
        del tables["state"]
    assert found[0]["incidents"]
    assert found[0] == found[1]
