"""Incidents told by the monitor itself: to a real Alertmanager, and to a webhook."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine_monitors import create_performance_app

ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(found: Callable[[], Any], *, what: str) -> Any:
    """The first true value of `found`, which may be a coroutine's."""
    async with asyncio.timeout(60):
        while True:
            value = found()
            value = await value if asyncio.iscoroutine(value) else value
            if value:
                return value
            await asyncio.sleep(0.1)
    raise AssertionError(what)


class Receiver:
    """A webhook that writes down what it is told, and refuses while it is `broken`."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.broken = False
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = httpx.Response(200, content=await reader.readexactly(length)).json()
            if not self.broken:
                self.told.append(body)
            status = b"503 Busy" if self.broken else b"200 OK"
            writer.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    async with server:
        yield made


@asynccontextmanager
async def alertmanager(root: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A real one, with a client of it."""
    assert ALERTMANAGER is not None
    config = root / "alertmanager.yaml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        ALERTMANAGER,
        f"--config.file={config}",
        f"--storage.path={root / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False) as client:

            async def ready() -> bool:
                try:
                    return (await client.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(ready, what="Alertmanager")
            yield client
    finally:
        process.terminate()
        await process.wait()


def lose_accuracy(world: Any, right: float = 0.6) -> None:
    for _ in range(10):
        world.label(world.send(100, right=right))


def app_of(world: Any, service: Any) -> Any:
    return create_performance_app(
        service, log=world.log, state=world.root / "performance.db", models=world.models
    )


@pytest.mark.skipif(ALERTMANAGER is None, reason="prometheus-alertmanager is not installed")
async def test_alertmanager_hears_of_an_incident_again_and_again_and_of_its_end(
    world: Any, make_service: Any, run_app: Any, tmp_path: Path
) -> None:
    world.deploy()
    lose_accuracy(world)
    async with alertmanager(tmp_path) as manager:

        async def active() -> list[Any]:
            return list((await manager.get("/api/v2/alerts")).raise_for_status().json())

        service = make_service(alerts={"alertmanager": str(manager.base_url), "resend": 5})
        async with run_app(app_of(world, service)) as client:
            (alert,) = await until(active, what="the alert")
            assert alert["labels"]["alertname"] == "CoalmineAccuracyLoss"
            assert (alert["labels"]["model_name"], alert["labels"]["revision"]) == ("demo", "1")
            assert "accuracy is" in alert["annotations"]["summary"]
            ends = datetime.fromisoformat(alert["endsAt"])

            async def renewed() -> bool:
                found = await active()
                return any(datetime.fromisoformat(item["endsAt"]) > ends for item in found)

            await until(renewed, what="told again before it expires")
            for _ in range(40):
                world.label(world.send(100, right=0.95))
            await client.settled()

            async def over() -> bool:
                return not await active()

            await until(over, what="the end")
            text = (await client.get("/metrics")).text
    assert 'destination="alertmanager",monitor="performance",result="delivered"} ' in text


async def test_a_webhook_is_told_once_of_the_beginning_and_once_of_the_end(
    world: Any, make_service: Any, run_app: Any, receiver: Receiver
) -> None:
    world.deploy()
    lose_accuracy(world)
    service = make_service(alerts={"webhook": receiver.url})
    receiver.broken = True
    async with run_app(app_of(world, service)) as client:
        await client.settled()

        async def failed() -> bool:
            text = (await client.get("/metrics")).text
            return 'result="failed"} 0.0' not in text

        await until(failed, what="a failed delivery")
        receiver.broken = False  # what could not be told is told later
        await until(lambda: receiver.told, what="the beginning")
    async with run_app(app_of(world, service)) as client:  # a restart tells nothing anew
        for _ in range(40):
            world.label(world.send(100, right=0.95))
        await client.settled()
        await until(lambda: len(receiver.told) > 1, what="the end")
    assert [told["status"] for told in receiver.told] == ["firing", "resolved"]
    first, last = (told["alerts"][0] for told in receiver.told)
    assert first["fingerprint"] == last["fingerprint"]
    assert receiver.told[0]["version"] == "4"
    assert first["endsAt"].startswith("0001")
    assert not last["endsAt"].startswith("0001")


async def test_without_a_destination_nothing_is_told_and_nothing_is_written(
    world: Any, make_service: Any, run_app: Any
) -> None:
    world.deploy()
    lose_accuracy(world)
    async with run_app(app_of(world, make_service())) as client:
        assert (await client.settled())["incidents"]
    assert not list(world.root.glob("*.json"))
