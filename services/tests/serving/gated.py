"""Models for a batcher under test: a quick one, and one that waits to be told."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from coalmine.protocol import Tensors
from coalmine.serving import (
    Computed,
)


def doubled(tensors: Tensors) -> Computed:
    result = {"y": tensors["x"] * 2}
    return Computed(tensors, result, result)


def column(*values: float) -> Tensors:
    return {"x": np.array(values, np.float32)}


class Gate:
    """A model that runs when the test says so, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.entered = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)
        self.fault: BaseException = ValueError("thirteen")

    def __call__(self, tensors: Tensors) -> Computed:
        self.batches.append(tensors["x"].ravel().tolist())
        self.entered.release()
        assert self.leave.acquire(timeout=10)
        if (tensors["x"] == 13).any():
            raise self.fault
        return doubled(tensors)

    async def started(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)
