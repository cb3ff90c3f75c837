"""Load for a server of images: gRPC calls from processes of their own, each answer's rows counted.

Requests are serialised once and answers are not parsed: what is measured is the server.
"""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from coalmine.clock import SYSTEM_CLOCK
from coalmine.protocol import Array
from coalmine.protocol.protobuf import message_class

__all__ = ["Load", "answer", "measure"]

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Clients that send the same batch again as soon as it is answered."""

    port: int
    rows: int
    """Images in a request."""

    processes: int
    streams: int
    """Requests in flight, of each process."""

    seconds: float


def answer(port: int, images: Array) -> Array:
    """The logits that the server gives for images [N, 3, H, W]."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_UNBOUNDED) as channel:
        payload = _method(channel)(_request(images), timeout=_TIMEOUT)
    response = message_class("ModelInferResponse").FromString(payload)
    (output,) = response.outputs
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(output.shape)


def measure(load: Load, images: Array) -> float:
    """Images a second, over all processes, after everyone has been answered once."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(load.processes)
    payload = _request(images[: load.rows])
    counts = context.SimpleQueue()
    children = [
        context.Process(target=_drive, args=(load, payload, barrier, counts))
        for _ in range(load.processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode:
            raise RuntimeError(f"a client ended with {child.exitcode}")
    answered: int = sum(counts.get() for _ in children)
    return answered * load.rows / load.seconds


def _drive(load: Load, payload: bytes, barrier: Any, counts: Any) -> None:
    """One process: count the answers that come within the time."""
    ready = threading.Barrier(load.streams + 1)
    go = threading.Event()
    until = [0.0]
    answered = [0] * load.streams

    def stream(number: int) -> None:
        # A channel each: calls of one channel would share a connection, and its flow control.
        options = [*_UNBOUNDED, ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{load.port}", options=options) as channel:
            call = _method(channel)
            call(payload, timeout=_TIMEOUT)
            ready.wait()
            go.wait()
            while True:
                call(payload, timeout=_TIMEOUT)
                if SYSTEM_CLOCK.monotonic() > until[0]:
                    return
                answered[number] += 1

    threads = [threading.Thread(target=stream, args=(n,), daemon=True) for n in range(load.streams)]
    for thread in threads:
        thread.start()
    ready.wait(_TIMEOUT)
    barrier.wait(_TIMEOUT)
    until[0] = SYSTEM_CLOCK.monotonic() + load.seconds
    go.set()
    for thread in threads:
        thread.join()
    counts.put(sum(answered))


def _method(channel: Any) -> Any:
    return channel.unary_unary(_METHOD)


def _request(images: Array) -> bytes:
    request = message_class("ModelInferRequest")(model_name="image")
    request.inputs.add(name="image", datatype="FP32", shape=list(images.shape))
    request.raw_input_contents.append(np.ascontiguousarray(images, np.float32).tobytes())
    payload: bytes = request.SerializeToString()
    return payload
