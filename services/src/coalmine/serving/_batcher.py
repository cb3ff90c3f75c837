"""Batching without a timer: whenever a runner is free, it takes all that waits.

An idle server answers a lone request at once, and a busy one forms batches as large as the load
makes them; there is no delay to tune. A batch is run by a thread, or, if running it is cheaper than
handing it over, by the caller itself.

Cancellation. A caller that leaves is skipped when its batch is formed; if the batch is already
running, its share of the result is thrown away. Each caller's future is settled on its own, so that
nobody waits for, or fails with, another.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.protocol import Tensors
from coalmine.serving._errors import ModelFailedError, QueueFullError

__all__ = ["Batcher", "Computed", "Outcome"]


@dataclass(frozen=True, slots=True)
class Computed:
    """What running a batch gives: what the network was given, and what is answered."""

    features: Tensors
    predictions: Tensors
    """The network's own outputs, for the record."""

    outputs: Tensors
    """What the client gets."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One caller's share of a batch."""

    computed: Computed
    queue_seconds: float
    batch_rows: int


@dataclass(slots=True, eq=False)
class _Waiting:
    tensors: Tensors
    rows: int
    key: tuple[object, ...]
    since: float
    future: asyncio.Future[Outcome]
    queued: bool = True


@dataclass(frozen=True, slots=True)
class _Job:
    batch: list[_Waiting]
    started: float
    loop: asyncio.AbstractEventLoop


_Result = Computed | BaseException


class Batcher:
    """Runs `compute` for callers on one event loop, in batches of at most `max_batch_rows`.

    `batchable` is false for a network with a fixed first dimension: each request runs alone.
    `inline_rows` is the size up to which a lone request is run by its caller (0: never).
    """

    def __init__(
        self,
        compute: Callable[[Tensors], Computed],
        *,
        batchable: bool = True,
        inline_rows: int = 0,
        max_batch_rows: int = 4096,
        max_queue_rows: int = 16384,
        runners: int = 1,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._compute = compute
        self._batchable = batchable
        self._inline_rows = inline_rows
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._runners = runners
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        self._idle = runners
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        for number in range(runners):
            thread = threading.Thread(target=self._work, name=f"runner-{number}", daemon=True)
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a runner."""
        return self._rows

    async def submit(self, tensors: Tensors, rows: int) -> Outcome:
        """The outcome for these rows. QueueFullError when too many rows wait already.

        Raises what `compute` raises for these rows; another caller's rows cannot make it fail.
        """
        if self._waiting and self._rows + rows > self._max_queue_rows:
            raise QueueFullError(f"{self._rows} rows wait for the model already; try again later")
        if rows <= self._inline_rows and not self._waiting and self._idle == self._runners:
            return Outcome(self._compute(tensors), 0.0, rows)
        loop = asyncio.get_running_loop()
        key = tuple((name, array.shape[1:]) for name, array in tensors.items())
        item = _Waiting(tensors, rows, key, self._clock.monotonic(), loop.create_future())
        self._waiting.append(item)
        self._rows += rows
        self._dispatch(loop)
        try:
            return await item.future
        finally:
            if item.queued:  # cancelled while waiting: neither rows nor memory count any more
                item.queued = False
                item.tensors = {}
                self._rows -= rows

    def close(self) -> None:
        """Let the runners end; callers that still wait are told that the model is gone."""
        for _ in range(self._runners):
            self._jobs.put(None)
        for item in self._waiting:
            if not item.future.done():
                item.future.set_exception(ModelFailedError("the server is shutting down"))
        self._waiting.clear()

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._idle and (batch := self._take()):
            self._idle -= 1
            self._jobs.put(_Job(batch, self._clock.monotonic(), loop))

    def _take(self) -> list[_Waiting]:
        """The longest run of like requests at the head of the queue: first come, first served."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting:
            item = self._waiting[0]
            if item.queued and batch:
                full = rows + item.rows > self._max_batch_rows
                if full or not self._batchable or item.key != batch[0].key:
                    break
            self._waiting.popleft()
            if item.queued:
                item.queued = False
                self._rows -= item.rows
                rows += item.rows
                batch.append(item)
        return batch

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            results = _run(self._compute, job.batch)
            try:
                job.loop.call_soon_threadsafe(self._finish, job, results)
            except RuntimeError:  # the loop is closed, and with it every caller
                return

    def _finish(self, job: _Job, results: list[_Result]) -> None:
        self._idle += 1
        rows = sum(item.rows for item in job.batch)
        for item, result in zip(job.batch, results, strict=True):
            if item.future.done():
                continue
            if isinstance(result, BaseException):
                item.future.set_exception(result)
            else:
                item.future.set_result(Outcome(result, job.started - item.since, rows))
        self._dispatch(job.loop)


def _run(compute: Callable[[Tensors], Computed], batch: list[_Waiting]) -> list[_Result]:
    """Each request's result: of the batch, or of the request alone if the batch fails.

    One request that the model cannot take must not fail the others it happened to meet.
    """
    if len(batch) > 1:
        try:
            return _split(compute(_join(batch)), batch)
        except Exception:
            pass
    return [_attempt(compute, item.tensors) for item in batch]


def _attempt(compute: Callable[[Tensors], Computed], tensors: Tensors) -> _Result:
    try:
        return compute(tensors)
    except BaseException as error:
        return error


def _join(batch: list[_Waiting]) -> Tensors:
    return {
        name: np.concatenate([item.tensors[name] for item in batch]) for name in batch[0].tensors
    }


def _split(computed: Computed, batch: list[_Waiting]) -> list[_Result]:
    results: list[_Result] = []
    start = 0
    total = sum(item.rows for item in batch)
    for group in (computed.features, computed.predictions, computed.outputs):
        if any(array.shape[:1] != (total,) for array in group.values()):
            raise ValueError("a tensor does not have one row per row of the batch")
    for item in batch:
        rows = slice(start, start + item.rows)
        start += item.rows
        results.append(
            Computed(
                {name: array[rows] for name, array in computed.features.items()},
                {name: array[rows] for name, array in computed.predictions.items()},
                {name: array[rows] for name, array in computed.outputs.items()},
            )
        )
    return results
