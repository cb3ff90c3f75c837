"""A real Envoy before real small servers, one an arm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from coalmine.arms import Arm
from coalmine.gateway import EnvoyGateway, envoy_command, write_bootstrap
from coalmine.spec import RoutingSpec

ARMS = (Arm.STABLE, Arm.CANARY, Arm.SHADOW)
MAX_BODY = 4 * 1024**2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_answered(url: str, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            httpx.get(url, trust_env=False)
            return
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


@dataclass
class Process:
    """A process that can be killed like by the kernel, and started again."""

    command: tuple[str, ...]
    url: str
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    _running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                env={**os.environ, **self.env},
                cwd=Path(__file__).parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until_answered(self.url)
        except httpx.TransportError:
            self.kill()
            raise AssertionError(self.log.read_text()) from None

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def kill(self) -> None:
        if self._running is not None:
            os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
            self._running = None


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Arm, Process]]:
    logs = tmp_path_factory.mktemp("upstreams")
    processes = {}
    with ExitStack() as stack:
        for arm in ARMS:
            port = free_port()
            processes[arm] = Process(
                (sys.executable, "-m", "pyvoy._cli", "upstream:app", "--port", str(port)),
                url=f"http://127.0.0.1:{port}",
                log=logs / f"{arm}.log",
                env={"ARM": arm.value},
            )
            processes[arm].start()
            stack.callback(processes[arm].kill)
        yield processes


@dataclass
class RunningGateway:
    directory: Path
    url: str
    admin_url: str
    routing: RoutingSpec
    process: Process

    def control(self, *, timeout: float = 10.0) -> EnvoyGateway:
        return EnvoyGateway(
            self.directory, admin_url=self.admin_url, routing=self.routing, timeout=timeout
        )


@pytest.fixture
def routing() -> RoutingSpec:
    return RoutingSpec()


@contextmanager
def started_gateway(
    tmp_path: Path, upstreams: dict[Arm, Process], routing: RoutingSpec
) -> Iterator[RunningGateway]:
    port, admin_port = free_port(), free_port()
    directory = tmp_path / "envoy"
    directory.mkdir()
    write_bootstrap(
        directory,
        gateway_port=port,
        admin_port=admin_port,
        arm_ports={arm: int(up.url.rsplit(":", 1)[1]) for arm, up in upstreams.items()},
        routing=routing,
        max_body=MAX_BODY,
    )
    url, admin_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    process = Process(envoy_command(directory), url=url, log=tmp_path / "envoy.log")
    process.start()
    try:
        yield RunningGateway(directory, url, admin_url, routing, process)
    finally:
        process.kill()


@pytest.fixture
def gateway(
    tmp_path: Path, upstreams: dict[Arm, Process], routing: RoutingSpec
) -> Iterator[RunningGateway]:
    with started_gateway(tmp_path, upstreams, routing) as running:
        yield running
