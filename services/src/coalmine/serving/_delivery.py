"""What follows a batch: every answer is written, counted and recorded, then the callers go on.

Paid once per batch wherever that can be: one reading of the clock, one frame of records in one
write. The record of a request is in the spool before its caller can send the answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from coalmine.clock import Clock
from coalmine.protocol import Tensors
from coalmine.records import CALLER_UNKNOWN, AnsweredTuple, InferenceRecord, RecordEmitter
from coalmine.records import Protocol as ProtocolName
from coalmine.serving._batch import Batch, Piece, Ticket
from coalmine.serving._errors import ModelFailedError
from coalmine.serving._metrics import ModelMetrics
from coalmine.serving._status import http_status, public_message

__all__ = ["Request", "deliver", "record_failure"]


class Request(Ticket):
    """A ticket of the server's own: it knows how its answer is written, and what is recorded."""

    __slots__ = ("arrived", "caller", "encode", "protocol", "reply", "request_id")

    reply: Any
    """What `encode` made of the outputs, once the request has been run."""

    def __init__(
        self,
        tensors: Tensors,
        rows: int,
        *,
        size: int,
        protocol: ProtocolName,
        request_id: str,
        arrived: float,
        encode: Callable[[Tensors], Any],
        deadline: float = math.inf,
        caller: int = CALLER_UNKNOWN,
    ) -> None:
        self.tensors = tensors
        self.rows = rows
        self.size = size
        self.deadline = deadline
        self.since = arrived
        self.queued = self.watched = False
        self.timer = None
        self.protocol = protocol
        self.request_id = request_id
        self.caller = caller
        self.arrived = arrived
        """On the monotonic clock, when its last byte was there."""

        self.encode = encode

    def abandon(self) -> None:
        """The client left: whoever waits for the request is cancelled, if it is not answered."""
        future: asyncio.Future[Any] | None = getattr(self, "future", None)
        if future is not None:
            future.cancel()


def deliver(
    batch: Batch, *, metrics: ModelMetrics, emitter: RecordEmitter | None, clock: Clock
) -> None:
    """Write the answers of a batch, count and record them, and settle its tickets."""
    requests = [ticket for ticket in batch.tickets if isinstance(ticket, Request)]
    if len(requests) < len(batch.tickets):
        batch.settle()  # somebody who is no edge, and wants the outcome itself
        return
    if batch.error is not None:
        if emitter is not None and isinstance(batch.error, ModelFailedError):
            failed = requests[0]
            record_failure(
                failed.request_id,
                failed.protocol,
                batch.error,
                arrived=failed.arrived,
                emitter=emitter,
                clock=clock,
                caller=failed.caller,
            )
        batch.settle()
        return
    ran = clock.monotonic()
    answered = _write_answers(batch.pieces)
    now = clock.monotonic()
    time = clock.time()
    before = time - now
    started, rows = batch.started, batch.rows
    metrics.ran(rows, running=ran - started, writing=now - ran, time=time)
    if not answered:
        return
    metrics.rows.observe(rows, len(answered))
    metrics.stepped(batch.steps, running=ran - started, requests=len(answered))
    observe, count = metrics.queue.observe, metrics.answered
    records: list[AnsweredTuple] = []
    for request in answered:
        arrived = request.arrived
        waited, took = started - request.since, now - arrived
        observe(waited)
        count(request.protocol, 200, took)
        if emitter is not None and request.rows:
            records.append(
                (
                    request.request_id,
                    before + arrived,
                    request.protocol,
                    int(took * 1e6),
                    request.rows,
                    int(waited * 1e6),
                    request.caller,
                )
            )
    if emitter is not None and records:
        parts = [(each.features, each.predictions) for each in batch.computed(answered)]
        emitter.emit_batch(records, parts, batch_rows=rows)
    # The callers are given the batch: if it held them, each would hold itself, and its tensors,
    # until the collector of cycles came by.
    batch.tickets = batch.pieces = ()
    for request in answered:
        request.future.set_result(batch)


def record_failure(
    request_id: str,
    protocol: ProtocolName,
    error: BaseException,
    *,
    arrived: float,
    emitter: RecordEmitter,
    clock: Clock,
    caller: int = CALLER_UNKNOWN,
) -> None:
    """Record a request without an answer; `arrived` is on the monotonic clock."""
    took = clock.monotonic() - arrived
    emitter.emit(
        InferenceRecord(
            request_id,
            clock.time() - took,
            protocol,
            int(took * 1e6),
            {},
            None,
            http_status(error),
            error=public_message(error),
            caller=caller,
        )
    )


def _write_answers(pieces: Sequence[Piece]) -> list[Request]:
    """The requests whose answer could be written; nobody waits for the others any more."""
    answered: list[Request] = []
    for tickets, computed in pieces:
        outputs = computed.outputs
        alone = len(tickets) == 1
        stop = 0
        request: Any  # a `Request`, as the caller has seen
        for request in tickets:
            start, stop = stop, stop + request.rows
            if request.future.done():
                continue
            share = outputs if alone else {name: a[start:stop] for name, a in outputs.items()}
            try:
                request.reply = request.encode(share)
            except Exception as error:
                request.future.set_exception(error)
            else:
                answered.append(request)
    return answered
