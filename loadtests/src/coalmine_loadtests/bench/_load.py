"""What is asked, and how: the model in process, or a URL over one of the protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from coalmine.demo.client import GRPC_METHOD, grpc_answer, http_path, v1_answer, v2_answer
from coalmine_loadtests._payloads import Payload
from coalmine_loadtests.bench._http import HttpConnection, HttpError

__all__ = ["Ask", "Target", "in_process_target", "url_target"]

Labels = NDArray[np.int64]
#: Sends one payload and reads the answer's labels; raises what went wrong.
Ask = Callable[[Payload], Awaitable[Labels]]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers payloads; `connect` opens one connection to it."""

    name: str
    protocol: str
    connect: Callable[[], AbstractAsyncContextManager[Ask]]


def in_process_target(model: Path, transformer: Any) -> Target:
    """The same transformer and model in this process: what a protocol cannot be faster than."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(model / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )

    async def ask(payload: Payload) -> Labels:
        tensors = transformer.preprocess(dict(payload.windows))
        (label,) = session.run(["label"], tensors)
        answer: Labels = label
        return answer

    @asynccontextmanager
    async def connect() -> AsyncIterator[Ask]:
        yield ask

    return Target("in process", "-", connect)


def url_target(name: str, url: str, *, protocol: Literal["v1", "v2", "grpc"], model: str) -> Target:
    """A server or a gateway at a URL."""
    if protocol == "grpc":
        return Target(name, protocol, lambda: _grpc(urlsplit(url).netloc))
    path = http_path(model, protocol)
    read = v1_answer if protocol == "v1" else v2_answer

    @asynccontextmanager
    async def connect() -> AsyncIterator[Ask]:
        connection = await HttpConnection.open(url)

        async def ask(payload: Payload) -> Labels:
            status, content = await connection.post(path, payload.bodies[protocol])
            if status != 200:
                raise HttpError(f"status {status}: {content[:200]!r}")
            return read(content)

        try:
            yield ask
        finally:
            await connection.close()

    return Target(name, protocol, connect)


@asynccontextmanager
async def _grpc(address: str) -> AsyncIterator[Ask]:
    import grpc.aio

    # Channels with equal options share one connection; a benchmark's connections are its own.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(GRPC_METHOD)

        async def ask(payload: Payload) -> Labels:
            return grpc_answer(await call(payload.bodies["grpc"], timeout=30.0))

        await asyncio.wait_for(channel.channel_ready(), 10.0)
        yield ask
