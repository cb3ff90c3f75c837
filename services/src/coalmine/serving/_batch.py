"""A batch: requests that are run together, and each one's share of what comes of it."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from coalmine.protocol import Tensors

__all__ = ["Batch", "Computed", "Outcome", "Piece", "Steps", "Ticket", "Waiter", "run_batch"]


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


class Piece(NamedTuple):
    """Tickets whose rows the model was given at once.

    `computed` has their rows, one ticket's after another's.
    """

    tickets: Sequence[Ticket]
    computed: Computed

    def shares(self) -> Iterator[tuple[Ticket, Computed]]:
        """Each ticket, and what was computed for it."""
        if len(self.tickets) == 1:
            yield self.tickets[0], self.computed
            return
        stop = 0
        for ticket in self.tickets:
            start, stop = stop, stop + ticket.rows
            yield ticket, self.computed.rows(start, stop)


@dataclass(slots=True)
class Batch:
    """Tickets that were run one right after the other, in pieces, and are answered together."""

    tickets: Sequence[Ticket]
    rows: int
    pieces: Sequence[Piece] = ()
    error: BaseException | None = None
    """Why there is nothing computed; then there is only one ticket."""

    started: float = 0.0
    """When it was taken from the queue, on the monotonic clock."""

    steps: Steps | None = field(init=False, default=None)
    """When its steps began and ended; None without a transformer."""

    def __post_init__(self) -> None:
        if self.pieces and self.pieces[0].computed.steps is not None:
            steps = [piece.computed.steps for piece in self.pieces]
            self.steps = Steps.joined([step for step in steps if step is not None])

    def settle(self) -> None:
        """Tell each caller that still waits its share, or its error."""
        if self.error is not None:
            self.fail(self.error)
            return
        for piece in self.pieces:
            for ticket, share in piece.shares():
                if not ticket.future.done():
                    waited = self.started - ticket.since
                    ticket.future.set_result(Outcome(share, waited, self.rows))

    def fail(self, error: BaseException) -> None:
        """Tell each caller that still waits this error."""
        for ticket in self.tickets:
            if not ticket.future.done():
                ticket.future.set_exception(error)

    def computed(self, tickets: Sequence[Ticket]) -> list[Computed]:
        """What was computed for some of its tickets, told in its order; in parts."""
        if len(tickets) == len(self.tickets):
            return [piece.computed for piece in self.pieces]
        wanted = set(map(id, tickets))
        shares = itertools.chain.from_iterable(piece.shares() for piece in self.pieces)
        return [share for ticket, share in shares if id(ticket) in wanted]


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
            return [Batch(tickets, rows, [_run(compute, piece) for piece in pieces])]
        except BaseException:  # a `sys.exit` in a model must not end the thread that runs it
            pass
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


def _run(compute: Callable[[Tensors], Computed], tickets: Sequence[Ticket]) -> Piece:
    computed = compute(_join(tickets))
    _check(computed, sum([ticket.rows for ticket in tickets]))
    return Piece(tickets, computed)


def _alone(compute: Callable[[Tensors], Computed], ticket: Ticket) -> Batch:
    try:
        return Batch([ticket], ticket.rows, [Piece([ticket], compute(ticket.tensors))])
    except BaseException as error:
        return Batch([ticket], ticket.rows, error=error)


def _join(tickets: Sequence[Ticket]) -> Tensors:
    if len(tickets) == 1:
        return tickets[0].tensors
    parts = [ticket.tensors for ticket in tickets]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check(computed: Computed, rows: int) -> None:
    for group in (computed.features, computed.predictions, computed.outputs):
        for array in group.values():
            if array.shape[:1] != (rows,):
                raise ValueError("a tensor does not have one row per row of the batch")


def _rows(tensors: Tensors, start: int, stop: int) -> Tensors:
    return {name: array[start:stop] for name, array in tensors.items()}
