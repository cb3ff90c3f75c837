"""A model server and a gateway in front of it, for the length of a benchmark."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from coalmine.arms import Arm
from coalmine.gateway import RoutePlan, envoy_command, write_bootstrap, write_routes
from coalmine.spec import RoutingSpec
from coalmine_loadtests.bench._errors import BenchError

__all__ = ["free_ports", "served"]

_READY_S = 60.0


@asynccontextmanager
async def served(
    model: Path, *, name: str, transformer: str, directory: Path
) -> AsyncIterator[tuple[str, str]]:
    """URLs of a gateway and of the server behind it, with records spooled as in production."""
    gateway, admin, *arms = free_ports(5)
    arm_ports = dict(zip((Arm.STABLE, Arm.CANARY, Arm.SHADOW), arms, strict=True))
    routing = RoutingSpec(sticky_header="x-vehicle-id")
    home = directory / "envoy"
    home.mkdir(parents=True)
    plan = RoutePlan("bench", {Arm.STABLE: 100})
    write_routes(home, plan, routing)
    write_bootstrap(
        home, gateway_port=gateway, admin_port=admin, arm_ports=arm_ports, routing=routing
    )
    port = arm_ports[Arm.STABLE]
    serve = [sys.executable, "-m", "coalmine.serving", str(model), "--name", name]
    serve += ["--port", str(port), "--transformer", transformer]
    # No collector answers there, so records are written to the spool as ever, and stay.
    serve += ["--records", "http://127.0.0.1:9", "--spool", str(directory / "spool")]
    urls = (f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{port}")
    log = directory / "bench.log"
    async with _running(serve, log) as server, _running(envoy_command(home), log) as envoy:
        await _ready(urls, (server, envoy), name=name, log=log)
        yield urls


@asynccontextmanager
async def _running(command: Sequence[str], log: Path) -> AsyncIterator[Process]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(
    urls: Sequence[str], processes: Sequence[Process], *, name: str, log: Path
) -> None:
    """Return when every URL serves the model; `BenchError` with the log's end if one will not."""
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(_READY_S),
            httpx.AsyncClient(timeout=2.0, trust_env=False) as http,
        ):
            while all(process.returncode is None for process in processes):
                answers = [await _answers(http, f"{url}/v2/models/{name}/ready") for url in urls]
                if all(answers):
                    return
                await asyncio.sleep(0.1)
    told = log.read_text("utf-8", errors="replace")[-2000:]
    raise BenchError(f"the server did not come up:\n{told}")


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.TransportError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
