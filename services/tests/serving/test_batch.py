"""Batches cut into pieces: what the model is given at once is bounded, and nobody can tell."""

from __future__ import annotations

import asyncio
import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalmine.protocol import Tensors
from coalmine.serving import Batcher, InlinePolicy
from coalmine.serving._batch import Computed, Steps, Ticket, run_batch


class Counting:
    """Doubles, in steps of a second each, and remembers how many rows it was given."""

    def __init__(self, *, steps: bool = False) -> None:
        self.given: list[int] = []
        self._now = 0.0
        self._steps = steps

    def __call__(self, tensors: Tensors) -> Computed:
        self.given.append(len(tensors["x"]))
        if (tensors["x"] == 13).any():
            raise ValueError("thirteen")
        result = {"y": tensors["x"] * 2}
        began, self._now = self._now, self._now + 10
        steps = Steps(began, began + 1, began + 3, began + 6) if self._steps else None
        return Computed(tensors, result, result, steps)


def tickets_of(*sizes: int, first: int = 100) -> list[Ticket]:
    tickets = []
    for size in sizes:
        x = np.arange(first, first + size, dtype=np.float32)
        tickets.append(Ticket({"x": x}, size, x.nbytes, 0.0))
        first += size
    return tickets


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(1, 20))
def test_pieces_end_where_tickets_do_and_the_rows_are_as_of_one_batch(
    sizes: list[int], piece: int
) -> None:
    model = Counting()
    (batch,) = run_batch(model, tickets_of(*sizes), piece_rows=piece)
    assert batch.rows == sum(sizes) == sum(model.given)
    rows = np.arange(100, 100 + sum(sizes))
    parts = batch.computed(batch.tickets)
    assert np.concatenate([part.features["x"] for part in parts]).tolist() == rows.tolist()
    for kind in ("outputs", "predictions"):
        found = np.concatenate([getattr(part, kind)["y"] for part in parts])
        assert found.tolist() == (2 * rows).tolist()
    odd = batch.computed(batch.tickets[1::2])
    want = [ticket.tensors["x"].tolist() for ticket in batch.tickets[1::2]]
    assert [part.features["x"].tolist() for part in odd] == want
    assert all(given <= piece or given in sizes for given in model.given)
    ends = set(np.cumsum(sizes).tolist())
    assert set(np.cumsum(model.given).tolist()) <= ends
    together = [a + b for a, b in zip(model.given, model.given[1:], strict=False)]
    assert all(rows > piece - max(sizes) for rows in together), "no more pieces than need be"


def test_a_large_ticket_is_one_piece_for_its_rows_may_belong_together() -> None:
    model = Counting()
    run_batch(model, tickets_of(5000, 10), piece_rows=1024)
    assert model.given == [5000, 10]


def test_a_piece_that_fails_fails_only_whose_rows_it_has() -> None:
    model = Counting()
    tickets = tickets_of(4, 4, 4, first=3)  # the third row of the third is 13
    batches = run_batch(model, tickets, piece_rows=4)
    assert [type(batch.error) for batch in batches] == [type(None), type(None), ValueError]
    assert [batch.tickets for batch in batches] == [[ticket] for ticket in tickets]


def test_steps_of_pieces_last_as_long_as_all_of_them() -> None:
    (batch,) = run_batch(Counting(steps=True), tickets_of(2, 2, 2), piece_rows=2)
    steps = batch.steps
    assert steps is not None
    assert steps.preprocessed - steps.began == pytest.approx(3)
    assert steps.predicted - steps.preprocessed == pytest.approx(6)
    assert (steps.began, steps.ended) == (0, 26)


async def test_what_has_run_alone_is_let_go_at_once() -> None:
    """A ticket that held itself would keep its tensors until the collector of cycles came by."""
    batcher = Batcher(Counting(), batchable=False)
    gc.disable()
    try:
        tensors: Tensors = {"x": np.ones(1, np.float32)}
        gone = weakref.ref(tensors["x"])
        await batcher.submit(tensors, 1)
        # Until then the runner remembers its last.
        await batcher.submit({"x": np.ones(1, np.float32)}, 1)
        del tensors
        assert gone() is None
    finally:
        gc.enable()
    batcher.close()


async def test_a_batch_that_runs_in_place_is_cut_and_one_that_is_handed_over_is_not() -> None:
    sizes = (600, 400, 600, 1500)
    for inline, pieces in ((InlinePolicy(4096), [1000, 600, 1500]), (None, [sum(sizes)])):
        model = Counting()
        batcher = Batcher(model, inline=inline)
        tensors: list[Tensors] = [{"x": np.ones(size, np.float32)} for size in sizes]
        outcomes = await asyncio.gather(
            *(batcher.submit(each, size) for each, size in zip(tensors, sizes, strict=True))
        )
        assert model.given == pieces
        assert [len(outcome.computed.outputs["y"]) for outcome in outcomes] == list(sizes)
        batcher.close()
