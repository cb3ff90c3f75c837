"""A batch: requests that are run together, and each one's share of what comes of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from coalmine.protocol import Tensors

__all__ = ["Batch", "Computed", "Outcome", "Steps", "Ticket", "Waiter", "run_batch"]


@dataclass(frozen=True, slots=True)
class Steps:
    """When the steps of a model with a transformer began and ended, on the monotonic clock."""

    began: float
    preprocessed: float
    predicted: float
    ended: float

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """As long as those of all parts, which followed each other, together."""
        began = parts[0].began
        preprocessed = began + sum([part.preprocessed - part.began for part in parts])
        predicted = preprocessed + sum([part.predicted - part.preprocessed for part in parts])
        return cls(began, preprocessed, predicted, parts[-1].ended)


@dataclass(frozen=True, slots=True)
class Computed:
    """What running a batch gives: what the network was given, and what is answered."""

    features: Tensors
    predictions: Tensors
    """The network's own outputs, for the record."""

    outputs: Tensors
    """What the client gets."""

    steps: Steps | None = None
    """None without a transformer."""

    @classmethod
    def joined(cls, parts: Sequence[Computed]) -> Computed:
        """The rows of all parts, one part's after another's."""
        if len(parts) == 1:
            return parts[0]
        steps = [part.steps for part in parts if part.steps is not None]
        outputs = _concatenated([part.outputs for part in parts])
        same = all(part.predictions is part.outputs for part in parts)
        return cls(
            _concatenated([part.features for part in parts]),
            outputs if same else _concatenated([part.predictions for part in parts]),
            outputs,
            Steps.joined(steps) if steps else None,
        )

    def rows(self, start: int, stop: int) -> Computed:
        """The share of some rows."""
        return Computed(
            _rows(self.features, start, stop),
            _rows(self.predictions, start, stop),
            _rows(self.outputs, start, stop),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One caller's share of a batch."""

    computed: Computed
    queue_seconds: float
    batch_rows: int


class Waiter(Protocol):
    """Who waits for a ticket: a future, or what settles itself. None of these raises."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """It was run."""

    def set_exception(self, exception: BaseException, /) -> None:
        """It could not be."""


class Ticket:
    """A request's place in the queue. It is run once; `future` is there when it joins the queue."""

    __slots__ = (
        "deadline",
        "future",
        "key",
        "number",
        "queued",
        "rows",
        "since",
        "size",
        "tensors",
        "timer",
        "watched",
    )

    future: Waiter
    key: Hashable
    number: int

    def __init__(
        self, tensors: Tensors, rows: int, size: int, since: float, deadline: float = math.inf
    ) -> None:
        self.tensors = tensors
        self.rows = rows
        self.size = size
        """Bytes, about, that it holds while it waits."""

        self.deadline = deadline
        """On the monotonic clock; what has not begun by then is not run."""

        self.since = since
        """When it began to wait, on the monotonic clock."""

        self.queued = False
        self.watched = False
        self.timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Batch:
    """Tickets that were run together. `computed` has their rows, one ticket's after another's."""

    tickets: Sequence[Ticket]
    rows: int
    computed: Computed | None = None
    error: BaseException | None = None
    """Why there is nothing computed; then there is only one ticket."""

    started: float = 0.0
    """When it was taken from the queue, on the monotonic clock."""

    def settle(self) -> None:
        """Tell each caller that still waits its share, or its error."""
        if self.error is not None:
            self.fail(self.error)
            return
        assert self.computed is not None
        stop = 0
        for ticket in self.tickets:
            start, stop = stop, stop + ticket.rows
            if not ticket.future.done():
                alone = len(self.tickets) == 1
                share = self.computed if alone else self.computed.rows(start, stop)
                waited = self.started - ticket.since
                ticket.future.set_result(Outcome(share, waited, self.rows))

    def fail(self, error: BaseException) -> None:
        """Tell each caller that still waits this error."""
        for ticket in self.tickets:
            if not ticket.future.done():
                ticket.future.set_exception(error)

    def share(self, tickets: Sequence[Ticket]) -> Computed:
        """What was computed for some of the tickets, in their order in the batch."""
        assert self.computed is not None
        wanted = set(map(id, tickets))
        chosen = np.repeat(
            [id(ticket) in wanted for ticket in self.tickets],
            [ticket.rows for ticket in self.tickets],
        )
        groups = (self.computed.features, self.computed.predictions, self.computed.outputs)
        features, predictions, outputs = (
            {name: array[chosen] for name, array in tensors.items()} for tensors in groups
        )
        return Computed(features, predictions, outputs, self.computed.steps)


def run_batch(
    compute: Callable[[Tensors], Computed],
    tickets: Sequence[Ticket],
    *,
    piece_rows: int | None = None,
) -> list[Batch]:
    """Run the tickets together, or each alone if that fails.

    One request that the model cannot take must not fail the others it happened to meet. With
    `piece_rows` the model is given no more rows than that at once, or those of one ticket.
    """
    if len(tickets) > 1:
        rows = sum([ticket.rows for ticket in tickets])
        pieces = (
            [tickets] if piece_rows is None or rows <= piece_rows else _cut(tickets, piece_rows)
        )
        try:
            computed = Computed.joined([_run(compute, piece) for piece in pieces])
        except BaseException:  # a `sys.exit` in a model must not end the thread that runs it
            pass
        else:
            return [Batch(tickets, rows, computed)]
    return [_alone(compute, ticket) for ticket in tickets]


def _cut(tickets: Sequence[Ticket], rows: int) -> list[list[Ticket]]:
    """Tickets that follow each other, up to so many rows, or one alone."""
    pieces: list[list[Ticket]] = [[]]
    room = rows
    for ticket in tickets:
        if ticket.rows > room and pieces[-1]:
            pieces.append([])
            room = rows
        pieces[-1].append(ticket)
        room -= ticket.rows
    return pieces


def _run(compute: Callable[[Tensors], Computed], tickets: Sequence[Ticket]) -> Computed:
    computed = compute(_join(tickets))
    _check(computed, sum([ticket.rows for ticket in tickets]))
    return computed


def _alone(compute: Callable[[Tensors], Computed], ticket: Ticket) -> Batch:
    try:
        return Batch([ticket], ticket.rows, compute(ticket.tensors))
    except BaseException as error:
        return Batch([ticket], ticket.rows, error=error)


def _join(tickets: Sequence[Ticket]) -> Tensors:
    if len(tickets) == 1:
        return tickets[0].tensors
    return _concatenated([ticket.tensors for ticket in tickets])


def _concatenated(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check(computed: Computed, rows: int) -> None:
    for group in (computed.features, computed.predictions, computed.outputs):
        for array in group.values():
            if array.shape[:1] != (rows,):
                raise ValueError("a tensor does not have one row per row of the batch")


def _rows(tensors: Tensors, start: int, stop: int) -> Tensors:
    return {name: array[start:stop] for name, array in tensors.items()}
