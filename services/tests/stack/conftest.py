"""A monitor and a webhook receiver, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response

from coalmine.incidents import Incident
from coalmine.stack import Ports, PortsTakenError
from coalmine.stack._ports import check_ports


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@dataclass
class World:
    """What the monitor says and what the receiver was told; either can be `away`."""

    url: str = ""
    incidents: list[Incident] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    open_metric: int = 0
    monitor_away: bool = False
    receiver_away: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/incidents")
        async def incidents(open: bool = False) -> dict[str, Any]:
            if self.monitor_away:
                raise HTTPException(503)
            found = [each for each in self.incidents if not open or each.closed_at is None]
            return {"incidents": [each.model_dump() for each in found], "evaluated_to": 0.0}

        @app.get("/metrics")
        async def metrics() -> Response:
            labels = 'model_name="ev",revision="3",monitor="drift",kind="drift",feature="soc"'
            return Response(f"coalmine_incident_open{{{labels}}} {self.open_metric}\n")

        @app.post("/alerts")
        async def alerts(request: Request) -> None:
            if self.receiver_away:
                raise HTTPException(500)
            self.told.append(await request.json())

        return app


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with served(world.app()) as world.url:
        yield world


@pytest.fixture(scope="module")
def free_ports() -> Ports:
    # Below the ports that the kernel gives to outgoing connections.
    for base in range(20_000 + os.getpid() * 8 % 10_000, 32_000, 8):
        try:
            check_ports(Ports(base))
        except PortsTakenError:
            continue
        return Ports(base)
    raise AssertionError("no eight free ports in a row")
