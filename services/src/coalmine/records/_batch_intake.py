"""Deliveries of batches on their way into the log: those that wait are appended together.

Two threads take turns: while one waits for the disk, the other makes batches of what has come
since. What a group shares, the commit and its `fsync` above all, is paid once for many clients.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from coalmine.records._batches import parse_stream
from coalmine.records._decode import FRAMES_TYPE, parse_frames
from coalmine.records._errors import RecordsError
from coalmine.records._log import RecordLog
from coalmine.records._types import BatchId, NewBatch

__all__ = ["BatchIntake", "Delivery"]

_THREADS = 2
#: A group ends with the body that reaches it: an answer should not wait for too many others.
_GROUP_BYTES = 8 * 1024**2


class Delivery(NamedTuple):
    """A request's body, and what its headers say of it."""

    body: bytes
    kind: str
    """Its media type."""

    batch_id: BatchId
    dropped: int

    def batch(self) -> NewBatch:
        """What is in it; MalformedBatchError if it is not that."""
        if self.kind == FRAMES_TYPE:  # as an emitter has them; others send Arrow
            batch = parse_frames(self.body, rows=self.batch_id.rows)
        else:
            batch = parse_stream(self.body)
        return NewBatch(batch, self.batch_id, None, self.dropped)


class _Waiting(NamedTuple):
    delivery: Delivery
    future: asyncio.Future[int]


class BatchIntake:
    """Appends deliveries to a log."""

    def __init__(self, log: RecordLog) -> None:
        self._log = log
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"coalmine-append-{number}", daemon=True)
            for number in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    async def append(self, delivery: Delivery) -> int:
        """The offset of a delivery, which is durable then.

        MalformedBatchError, or LogError if nothing of it is stored.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.put(_Waiting(delivery, future))
        return await future

    def close(self) -> None:
        """Append what waits, and end the threads. Blocks."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            size = len(first.delivery.body)
            while size < _GROUP_BYTES:
                try:
                    another = self._queue.get_nowait()
                except Empty:
                    break
                if another is None:  # for this thread, once the group is done
                    self._queue.put(None)
                    break
                group.append(another)
                size += len(another.delivery.body)
            self._append(group)

    def _append(self, group: list[_Waiting]) -> None:
        results: list[int | Exception] = []
        try:
            results = self._appended([waiting.delivery for waiting in group])
        except Exception as error:  # a bug is the answer to those it concerns
            results = [error] * len(group)
        futures = [waiting.future for waiting in group]
        futures[0].get_loop().call_soon_threadsafe(_settle, futures, results)

    def _appended(self, deliveries: list[Delivery]) -> list[int | Exception]:
        results: list[int | Exception] = []
        batches: list[NewBatch] = []
        for delivery in deliveries:
            try:
                batches.append(delivery.batch())
                results.append(0)
            except RecordsError as error:
                results.append(error)
        done = iter(self._log.append_all(batches))
        return [next(done) if result == 0 else result for result in results]


def _settle(futures: Sequence[asyncio.Future[int]], results: Sequence[int | Exception]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue  # its client has left
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
