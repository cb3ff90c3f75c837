"""Where a rollout is played: a directory, ports, the gateway and the arms' servers."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from coalmine.arms import Arm
from coalmine.gateway import envoy_command, write_bootstrap
from coalmine.spec import RoutingSpec

__all__ = ["Ground", "running"]

_READY_S = 30.0
_ARMS = (Arm.STABLE, Arm.CANARY, Arm.SHADOW, Arm.BASELINE)


@dataclass(frozen=True, slots=True)
class Ground:
    """Addresses and files; every process of the play is told them by one file."""

    root: Path
    ports: tuple[int, ...]
    """Gateway, its admin port, evidence, and one for each arm."""

    name: str = "m"
    block_s: float = 0.25

    @classmethod
    def make(cls, root: Path) -> Ground:
        """A new one on free ports, its directories made and its file written."""
        ground = cls(root, tuple(_ports(3 + len(_ARMS))))
        for directory in (ground.envoy, ground.registry / "versions"):
            directory.mkdir(parents=True, exist_ok=True)
        write_bootstrap(
            ground.envoy,
            gateway_port=ground.ports[0],
            admin_port=ground.ports[1],
            arm_ports=ground.arm_ports,
            routing=ground.routing,
        )
        ground.file.write_text(json.dumps({"root": str(root), "ports": ground.ports}))
        return ground

    @classmethod
    def read(cls, file: Path) -> Ground:
        """As `make` wrote it."""
        content = json.loads(file.read_text())
        return cls(Path(content["root"]), tuple(content["ports"]))

    @property
    def file(self) -> Path:
        """What `read` takes."""
        return self.root / "ground.json"

    @property
    def envoy(self) -> Path:
        """The gateway's directory."""
        return self.root / "envoy"

    @property
    def arms_file(self) -> Path:
        """What the arms' servers follow."""
        return self.root / "arms.json"

    @property
    def registry(self) -> Path:
        """Model versions."""
        return self.root / "registry"

    @property
    def database(self) -> Path:
        """The controller's."""
        return self.root / "rollout.db"

    @property
    def url(self) -> str:
        """The gateway."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def admin_url(self) -> str:
        """The gateway's admin port."""
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def evidence_url(self) -> str:
        """Who says what the arms answered."""
        return f"http://127.0.0.1:{self.ports[2]}"

    @property
    def arm_ports(self) -> dict[Arm, int]:
        """Where the arms' servers listen."""
        return dict(zip(_ARMS, self.ports[3:], strict=True))

    @property
    def routing(self) -> RoutingSpec:
        """How the gateway splits: each request alone."""
        return RoutingSpec(sticky_header=None)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """The gateway and the arms' servers run."""
        ports = [f"{arm}={port}" for arm, port in self.arm_ports.items()]
        module = (sys.executable, "-m", "coalmine_loadtests.rollout._arms")
        async with AsyncExitStack() as stack:
            log = self.root / "processes.log"
            await stack.enter_async_context(
                running((*module, str(self.arms_file), self.name, *ports), log)
            )
            await stack.enter_async_context(running(envoy_command(self.envoy), log))
            async with asyncio.timeout(_READY_S), httpx.AsyncClient(trust_env=False) as client:
                while not await _answers(client, f"{self.admin_url}/ready"):
                    await asyncio.sleep(0.05)
            yield


@asynccontextmanager
async def running(
    command: Sequence[str], log: Path, *, stdin: int | None = None, stdout: int | None = None
) -> AsyncIterator[Process]:
    """A process, killed at the end."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=output if stdout is None else stdout,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _ports(count: int) -> list[int]:
    """Free ports below those that the kernel gives to outgoing connections: arms come and go."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False
