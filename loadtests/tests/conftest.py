"""A model server of this workspace, for as long as the tests run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from coalmine_loadtests.bench._model import write_model
from coalmine_loadtests.bench._server import free_ports

TRANSFORMER = "coalmine_transformers.battery:BatteryTransformer"


@dataclass(frozen=True)
class Served:
    url: str
    model: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The battery model behind `coalmine.serving`, HTTP and gRPC on one port."""
    directory = tmp_path_factory.mktemp("served")
    model = write_model(directory / "model", name="ev-battery")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "coalmine.serving", str(model), "--port", str(port)]
    command += ["--name", "ev-battery", "--transformer", TRANSFORMER]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 60
        while not _ready(url):
            told = (directory / "log").read_text(errors="replace")
            assert process.poll() is None, told
            assert time.monotonic() < give_up, told
            time.sleep(0.1)
        yield Served(url, model, process)
    finally:
        process.terminate()
        process.wait(10)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/models/ev-battery/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
