"""What a server tells its interpreter, and how much of a body it takes before it wakes anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.server import ServerState

from coalmine.serving._uvicorn_limits import LimitedConfig, LimitedProtocol

#: A transformer that answers with what its own process is set to.
PROBE = """
import gc, sys
import numpy as np
from coalmine.protocol import TensorSpec

class Probe:
    inputs = (TensorSpec("features", "FP32", (-1, 4)),)
    outputs = tuple(TensorSpec(name, "FP64", (-1,)) for name in ("frozen", "young", "turn"))

    def preprocess(self, tensors):
        return tensors

    def postprocess(self, tensors):
        rows = len(tensors["label"])
        found = (gc.get_freeze_count(), gc.get_threshold()[0], sys.getswitchinterval())
        names = ("frozen", "young", "turn")
        return {name: np.full(rows, value, np.float64) for name, value in zip(names, found)}
"""


@pytest.mark.parametrize("kind", ["native", pytest.param("uvicorn", marks=pytest.mark.slow)])
def test_what_was_loaded_is_not_looked_at_by_the_collector_again(
    start: Any, model_dir: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "probing.py").write_text(PROBE)
    served = start(model_dir, "--transformer", "probing:Probe", kind=kind, PYTHONPATH=str(tmp_path))
    answer = httpx.post(f"{served.url}/v1/models/toy:predict", json={"instances": [[1, 2, 3, 4]]})
    (found,) = answer.json()["predictions"]
    assert found["frozen"] > 10_000, "the modules alone are more objects"
    assert found["young"] > 700, "Python's own"
    assert found["turn"] < 0.005, "Python's own"


async def test_a_body_gathers_before_the_application_is_woken() -> None:
    woken: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        woken.append(len(message["body"]))
        while message.get("more_body"):
            message = await receive()
            woken.append(len(message["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = LimitedConfig(
        app, max_connections=9, receive_timeout=60.0, lifespan="off", log_config=None
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: LimitedProtocol(config, state, {}), "127.0.0.1", 0)
    size, piece = 900_000, 50_000
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    head = f"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
    writer.write(head.encode())
    for _ in range(size // piece):
        writer.write(bytes(piece))
        await writer.drain()
        await asyncio.sleep(0.005)  # so that the server reads it in many pieces
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert woken == [size], "once, with the whole of it"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
