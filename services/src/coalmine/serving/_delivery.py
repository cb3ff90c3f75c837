"""What follows a batch: every answer is written, counted and recorded, then the callers go on.

Paid once per batch wherever that can be: one reading of the clock, one frame of records in one
write. The record of a request is in the spool before its caller can send the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from coalmine.clock import Clock
from coalmine.protocol import Tensors
from coalmine.records import AnsweredRequest, RecordEmitter
from coalmine.records import Protocol as ProtocolName
from coalmine.serving._batch import Batch, Ticket
from coalmine.serving._metrics import ModelMetrics

__all__ = ["Request", "deliver"]


class Request(Ticket):
    """A ticket of the server's own: it knows how its answer is written, and what is recorded."""

    __slots__ = ("arrived", "encode", "protocol", "reply", "request_id")

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
    ) -> None:
        super().__init__(tensors, rows, size=size, deadline=deadline)
        self.protocol = protocol
        self.request_id = request_id
        self.arrived = arrived
        """On the monotonic clock, when its last byte was there."""

        self.encode = encode


def deliver(
    batch: Batch, *, metrics: ModelMetrics, emitter: RecordEmitter | None, clock: Clock
) -> None:
    """Write the answers of a batch, count and record them, and settle its tickets."""
    computed = batch.computed
    if computed is None or not all([isinstance(ticket, Request) for ticket in batch.tickets]):
        batch.settle()  # an error, which its caller records; or a caller that is not an edge
        return
    answered = _write_answers(batch, computed.outputs)
    if not answered:
        return
    now = clock.monotonic()
    wall = clock.time() - now
    started, rows = batch.started, batch.rows
    metrics.rows.observe(rows, len(answered))
    for request in answered:
        metrics.queue.observe(started - request.since)
        metrics.answered(request.protocol, 200, now - request.arrived)
    if emitter is not None:
        kept = computed
        if len(answered) < len(batch.tickets):
            kept = batch.share(answered)
        emitter.emit_batch(
            [
                AnsweredRequest(
                    request.request_id,
                    wall + request.arrived,
                    request.protocol,
                    int((now - request.arrived) * 1e6),
                    request.rows,
                    int((started - request.since) * 1e6),
                )
                for request in answered
            ],
            kept.features,
            kept.predictions,
            batch_rows=rows,
        )
    for request in answered:
        request.future.set_result(batch)


def _write_answers(batch: Batch, outputs: Tensors) -> list[Request]:
    """The requests whose answer could be written; nobody waits for the others any more."""
    answered = []
    alone = len(batch.tickets) == 1
    stop = 0
    for request in batch.tickets:
        assert isinstance(request, Request)
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
