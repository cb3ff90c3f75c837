"""The service file of the `image` application: what `coalmine up` makes of it runs on a CPU too."""

from __future__ import annotations

import base64
import io
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from coalmine.apps.image import CLASSES, SERVICE_FILE, write_network
from coalmine.arms import Arm
from coalmine.rollout import DeployedModel
from coalmine.spec import load_service
from coalmine.stack import Ports, StateDirectory
from coalmine.stack._parts import Parts

SERVICE = load_service(SERVICE_FILE)


def jpeg() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def one_free_port() -> Ports:
    """Ports of which that of the stable arm, at least, is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    return Ports(free - Ports(0).arms[Arm.STABLE])


def command(directory: Path, ports: Ports, **changes: Any) -> list[str]:
    service = SERVICE.model_copy(update={"model": SERVICE.model.model_copy(update=changes)})
    parts = Parts(
        service=service, service_file=SERVICE_FILE, state=StateDirectory(directory), ports=ports
    )
    model = DeployedModel("7", directory / "model", "sha256:0")
    return list(parts.arm(Arm.STABLE, model).command)


def test_providers_and_threads_reach_the_server(tmp_path: Path) -> None:
    words = command(tmp_path, Ports(9000))
    assert words[words.index("--providers") + 1] == "tensorrt,cuda,cpu"
    assert words[words.index("--threads") + 1] == "0"
    assert "--require-gpu" not in words
    assert "--require-gpu" in command(tmp_path, Ports(9000), require_gpu=True)


def test_a_picture_is_answered_without_a_gpu(tmp_path: Path) -> None:
    ports = one_free_port()
    write_network(tmp_path / "model")
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(command(tmp_path, ports), stdout=out, stderr=out)
    url = f"http://127.0.0.1:{ports.arms[Arm.STABLE]}"
    try:
        answer = None
        deadline = time.monotonic() + 60
        while answer is None and time.monotonic() < deadline:
            assert server.poll() is None, log.read_text()
            picture = {"b64": base64.b64encode(jpeg()).decode()}
            try:
                answer = httpx.post(
                    f"{url}/v1/models/image:predict", json={"instances": [picture]}, timeout=30
                )
            except httpx.TransportError:
                time.sleep(0.05)
        assert answer is not None, log.read_text()
        assert answer.status_code == 200, answer.text
        (scores,) = answer.json()["predictions"]
        assert len(scores) == CLASSES
        assert answer.headers["x-coalmine-version"] == "7"
        if "cuda cannot be used" in log.read_text():  # as on most machines that run tests
            assert "runs on cpu" in log.read_text()
        refused = httpx.post(
            f"{url}/v1/models/image:predict", json={"instances": ["no picture"]}, timeout=30
        )
        assert refused.status_code == 400
        assert "image, row 0" in refused.json()["error"]
    finally:
        server.terminate()
        server.wait(20)
