"""A storm of alerts on a real server, which is killed in the middle of it: one run, no fate lost.

`COALMINE_STORM_ALERTS=10000 pytest -s -m slow services/tests/retraining/test_storm.py` is the whole
storm, and prints what it cost.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from coalmine.retraining._store import Store

from .conftest import ONSET, STARTS_AT, World, make_service, webhook

ALERTS = int(os.environ.get("COALMINE_STORM_ALERTS", "300"))
SENDERS = 40
KILLS = 2

_SERVER = """
import pathlib, sys
import uvicorn
from coalmine.retraining import create_app
from coalmine.spec import ServiceSpec

service = ServiceSpec.model_validate_json(pathlib.Path(sys.argv[1]).read_text())
state = pathlib.Path(sys.argv[2])
app = create_app(service, state=state, log_uri=f"sqlite:///{state}/records.db",
    quality_url=sys.argv[3] + "/quality", rollout_url=sys.argv[3] + "/rollout")
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[4]), log_level="error")
"""


class Server:
    """A retrainer in a process of its own, on a port that it keeps."""

    def __init__(self, state: Path, world: World, folder: Path) -> None:
        (folder / "server.py").write_text(_SERVER, encoding="utf-8")
        service = make_service(max_wait="1d")  # its labels never come: it waits all the while
        (folder / "service.json").write_text(service.model_dump_json(), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [
            *(sys.executable, str(folder / "server.py"), str(folder / "service.json")),
            *(str(state), world.url, str(self.port)),
        ]
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(*self._command)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


async def post_until_acknowledged(
    client: httpx.AsyncClient, bodies: asyncio.Queue[Any], fates: Counter[str]
) -> None:
    """What Alertmanager does: once more, until there is an answer that counts."""
    while not bodies.empty():
        body = bodies.get_nowait()
        while True:
            try:
                answer = await client.post("/v1/alerts", json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            if answer.status_code == 200:
                fates.update(answer.json()["triggers"])
                break
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.2)


def storm(alerts: int) -> asyncio.Queue[Any]:
    """Groups of one to seven, each alert three times, every fifth notification of an end."""
    bodies: asyncio.Queue[Any] = asyncio.Queue()
    sent = number = 0
    while sent < alerts:
        body = webhook("storm", starts_at=STARTS_AT, onset=ONSET)
        (one,) = body["alerts"]
        status = "resolved" if number % 5 == 4 else "firing"
        size = min(1 + number % 7, alerts - sent)
        body["alerts"] = [
            {**one, "status": status, "fingerprint": f"f{(sent + n) // 3}"} for n in range(size)
        ]
        bodies.put_nowait(body)
        sent, number = sent + size, number + 1
    return bodies


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_storm_and_kills_start_one_run(state: Path, world: World, tmp_path: Path) -> None:
    server = Server(state, world, tmp_path)
    bodies, fates = storm(ALERTS), Counter[str]()
    left = bodies.qsize()
    await server.start()
    limits = httpx.Limits(max_connections=SENDERS)
    base = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=base, timeout=60.0, limits=limits) as client:
        senders = [
            asyncio.create_task(post_until_acknowledged(client, bodies, fates))
            for _ in range(SENDERS)
        ]
        for kill in range(KILLS):  # each while a part of the storm is acknowledged, and a part not
            while bodies.qsize() > left * (KILLS - kill) / (KILLS + 1):
                await asyncio.sleep(0.01)
            await server.kill()
            await server.start()
        await asyncio.gather(*senders)
        assert server.process is not None
        memory = psutil.Process(server.process.pid).memory_info().rss
        times = psutil.Process(server.process.pid).cpu_times()
        runs = (await client.get("/v1/runs")).json()["runs"]
        status = (await client.get("/v1/status")).json()
    await server.kill()
    store = Store(state / "retraining.db")
    triggers = store.triggers()
    assert len(store.runs()) == len(runs) == 1
    assert status["run"]["id"] == runs[0]["id"]
    store.close()
    kept: Counter[str] = Counter()
    for trigger in triggers:
        kept[trigger.fate] += trigger.count
    # What was acknowledged is kept; a kill between the note and the answer makes it come twice.
    assert fates.total() == ALERTS
    assert all(kept[fate] >= count for fate, count in fates.items())
    assert kept["accepted"] == 1
    assert kept.total() <= ALERTS + KILLS * SENDERS * 7
    assert len(triggers) <= 6  # accepted, merged, resolved; an hour may end meanwhile
    size = (state / "retraining.db").stat().st_size
    print(
        f"\n{ALERTS} alerts, {KILLS} kills: {dict(kept)} in {len(triggers)} rows, database "
        f"{size / 1024:.0f} KiB, memory {memory / 2**20:.0f} MiB, "
        f"processor time of the last server {times.user + times.system:.1f} s"
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_two_retrainers_on_one_database_start_one_run(
    state: Path, world: World, tmp_path: Path
) -> None:
    servers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        servers.append(Server(state, world, tmp_path / name))
    await asyncio.gather(*(server.start() for server in servers))
    fates = Counter[str]()
    bodies = storm(ALERTS // 3)
    clients = [
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60.0)
        for server in servers
    ]
    try:
        senders = [
            post_until_acknowledged(client, bodies, fates) for client in clients for _ in range(8)
        ]
        await asyncio.gather(*senders)
        first, second = [(await client.get("/v1/runs")).json()["runs"] for client in clients]
        assert first == second
        assert len(first) == 1
        await servers[0].kill()  # whichever led: the other goes on
        for _ in range(300):
            (run,) = (await clients[1].get("/v1/runs")).json()["runs"]
            if run["waiting_for"]:
                break
            await asyncio.sleep(0.1)
        assert run["id"] == first[0]["id"]
        assert "rows since the onset" in run["waiting_for"]
    finally:
        for client in clients:
            await client.aclose()
        for server in servers:
            assert server.process is not None
            if server.process.returncode is None:
                await server.kill()
    assert fates["accepted"] == 1
