"""Batching without a timer: what arrives together, or while the model is busy, is run together.

Requests that arrive in one turn of the event loop wait for its end, and for nothing else; then they
are joined, run, and answered at once. A batch that is cheaper to run than to hand over runs in
place, another one goes to a runner, and while all runners are busy the queue grows into the next
batch: a lone request is never delayed, and a busy server forms batches as large as the load makes
them.

Order. The oldest request is always in the next batch, together with the oldest of those that can be
joined to it, up to `max_batch_rows` and `max_batch_bytes`: neither a huge request nor many small
ones can starve anybody.

Cancellation. A caller that leaves is skipped when its batch is formed; if the batch is already
running, its share of the result is thrown away. Each caller's future is settled on its own, so that
nobody waits for, or fails with, another. Deadlines work the same way.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.protocol import Tensors
from coalmine.serving._batch import Batch, Computed, Outcome, Ticket, run_batch
from coalmine.serving._errors import DeadlineError, ModelFailedError, QueueFullError
from coalmine.serving._inline import InlinePolicy
from coalmine.serving._queue import TicketQueue

__all__ = ["BatchLimits", "Batcher"]

#: What a small network is given at once in place: what it makes of more rows does not stay in the
#: core's own cache, and drives out of it the rows themselves and all that follows a batch.
_PIECE_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much is run at once, and how much may wait."""

    batch_rows: int = 4096
    batch_bytes: int = 64 * 1024**2
    queue_rows: int = 16384
    queue_bytes: int = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class _Job:
    tickets: list[Ticket]
    started: float
    loop: asyncio.AbstractEventLoop


class Batcher:
    """Runs `compute` for callers on one event loop, in batches.

    `batchable` is false for a network with a fixed first dimension: each request runs alone. So it
    does `apart`, which says that a batch takes as long as its requests one after the other.
    `uniform` says that all requests have the same shape but for their rows. `finish` is given each
    batch that was run, on the event loop; it settles the futures of its tickets.
    """

    def __init__(
        self,
        compute: Callable[[Tensors], Computed],
        *,
        batchable: bool = True,
        apart: bool = False,
        uniform: bool = False,
        inline: InlinePolicy | None = None,
        limits: BatchLimits = BatchLimits(),
        runners: int = 1,
        finish: Callable[[Batch], None] = Batch.settle,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._compute = compute
        self._batchable = batchable
        self._apart = apart or not batchable
        self._uniform = uniform
        self._inline = InlinePolicy(0) if inline is None else inline
        self._limits = limits
        self._runners = runners
        self._finish = finish
        self._clock = clock
        self._queue = TicketQueue()
        self._flushing = False
        self._idle = runners
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        for number in range(runners):
            thread = threading.Thread(target=self._work, name=f"runner-{number}", daemon=True)
            thread.start()

    @property
    def batch_rows(self) -> int:
        """Rows of the largest batch; 0 if the network takes no other number than its own."""
        return self._limits.batch_rows if self._batchable else 0

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a runner."""
        return self._queue.rows

    async def submit(self, tensors: Tensors, rows: int, *, deadline: float = math.inf) -> Outcome:
        """The outcome for these rows; errors as of `run`."""
        size = sum(array.nbytes for array in tensors.values())
        ticket = Ticket(tensors, rows, size, self._clock.monotonic(), deadline)
        outcome: Outcome = await self.run(ticket)
        return outcome

    async def run(self, ticket: Ticket) -> Any:
        """What `finish` makes of a ticket, which may be run once only: an Outcome, if not told.

        QueueFullError when too much waits already, DeadlineError when its time is over. Raises what
        `compute` raises for these rows; another caller's rows cannot make it fail.
        """
        ticket.future = future = asyncio.get_running_loop().create_future()
        try:
            self.enqueue(ticket)
            return await future
        finally:
            self.leave(ticket)

    def enqueue(self, ticket: Ticket) -> None:
        """Run a ticket that somebody waits for already (`future`), who must `leave` in the end.

        QueueFullError; whatever else `run` raises is told to the one that waits.
        """
        loop = asyncio.get_running_loop()
        queue, limits = self._queue, self._limits
        if self._is_full(ticket):
            self._flush(loop)  # perhaps it is this turn only that brings so many
            if self._is_full(ticket):
                raise QueueFullError(
                    f"{queue.rows} rows wait for the model already; try again later"
                )
        ticket.key = self._key(ticket)
        queue.add(ticket)
        if queue.rows >= (self._inline.rows or limits.batch_rows):
            self._flush(loop)  # enough for a batch: nobody need wait for more
        elif not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush, loop)

    def leave(self, ticket: Ticket) -> None:
        """Nobody waits for the ticket any more, answered or not."""
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket.queued:  # it left while waiting: neither rows nor memory count any more
            self._queue.drop(ticket)
            ticket.tensors = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being run; what is run for a caller that has left counts too."""
        return self._idle == self._runners

    def close(self) -> None:
        """Let the runners end; callers that still wait are told that the model is gone."""
        for _ in range(self._runners):
            self._jobs.put(None)
        while (ticket := self._queue.oldest()) is not None:
            self._queue.drop(ticket)
            if not ticket.future.done():
                ticket.future.set_exception(ModelFailedError("the server is shutting down"))

    def _is_full(self, more: Ticket) -> bool:
        queue, limits = self._queue, self._limits
        return queue.rows > 0 and (
            queue.rows + more.rows > limits.queue_rows
            or queue.bytes + more.size > limits.queue_bytes
        )

    def _key(self, ticket: Ticket) -> Hashable:
        if self._apart:
            return object()  # not the ticket: that would hold itself, and its tensors
        if self._uniform:
            return None
        return tuple((name, array.shape[1:]) for name, array in sorted(ticket.tensors.items()))

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run or hand over all that can be."""
        self._flushing = False
        queue, limits = self._queue, self._limits
        while (oldest := queue.oldest()) is not None:
            # Never beside a runner: a transformer need not bear two threads.
            inline = max(oldest.rows, 1) <= self._inline.rows and self._idle == self._runners
            if not (inline or self._idle):
                self._watch_queue(loop)
                return
            max_rows = min(self._inline.rows, limits.batch_rows) if inline else limits.batch_rows
            now = self._clock.monotonic()
            tickets = [
                ticket
                for ticket in queue.take(max_rows=max_rows, max_bytes=limits.batch_bytes)
                if not ticket.future.done() and (ticket.deadline > now or _expire(ticket))
            ]
            if not tickets:
                continue
            if inline:
                self._done(now, run_batch(self._compute, tickets, piece_rows=_PIECE_ROWS))
            else:
                for ticket in tickets:
                    _watch(ticket, now, loop)
                self._idle -= 1
                self._jobs.put(_Job(tickets, now, loop))

    def _watch_queue(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._clock.monotonic()
        for ticket in self._queue.unwatched():
            _watch(ticket, now, loop)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batches = run_batch(self._compute, job.tickets)
            try:
                job.loop.call_soon_threadsafe(self._ran, job, batches)
            except RuntimeError:  # the loop is closed, and with it every caller
                return
            del job, batches  # which a runner would hold until the next batch comes, if one does

    def _ran(self, job: _Job, batches: list[Batch]) -> None:
        self._idle += 1
        self._done(job.started, batches)
        self._flush(job.loop)

    def _done(self, started: float, batches: list[Batch]) -> None:
        self._inline.observe(self._clock.monotonic() - started)
        for batch in batches:
            batch.started = started
            self._finish(batch)


def _watch(ticket: Ticket, now: float, loop: asyncio.AbstractEventLoop) -> None:
    """See to it that a caller who has to wait hears in time that its time is over."""
    if not ticket.watched:
        ticket.watched = True
        if ticket.deadline < math.inf:
            ticket.timer = loop.call_later(ticket.deadline - now, _expire, ticket)


def _expire(ticket: Ticket) -> bool:
    """Tell a caller that its time is over; False."""
    if not ticket.future.done():
        ticket.future.set_exception(DeadlineError("no time was left to run the model"))
    return False
