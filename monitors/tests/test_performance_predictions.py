"""Predicted classes by block, of few classes and of very many."""

from __future__ import annotations

import sqlite3

from coalmine_monitors.performance._join import Answer
from coalmine_monitors.performance._predictions import (
    MAX_CLASSES,
    OTHER,
    TABLES,
    add_predictions,
    forget_predictions,
    with_predictions,
)
from coalmine_monitors.performance._schema import Block


def answer(time: float, name: str, *, row: int = 0) -> Answer:
    return Answer(
        request_id=f"r{time}",
        row=row,
        arm="canary",
        version="2",
        time=time,
        answer=name,
        number=None,
    )


def block(time: float) -> Block:
    return Block(
        time=time, version="2", arm="canary", requests=1, errors=0, latency_counts=(), instances=1,
        labelled=0, correct=0,
    )  # fmt: skip


def test_answers_add_up_by_block_and_a_block_without_any_is_not_known() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    add_predictions(connection, [answer(10.1, "a"), answer(10.9, "b")], block_s=1.0)
    add_predictions(connection, [answer(10.2, "a"), answer(11.0, "a")], block_s=1.0)
    names, blocks = with_predictions(
        connection, [block(10.0), block(11.0), block(12.0)], block_s=1.0
    )
    assert names == ("a", "b")
    assert [each.predictions for each in blocks] == [(2, 1), (1, 0), None]
    forget_predictions(connection, oldest=11.0, block_s=1.0)
    _, left = with_predictions(connection, [block(10.0), block(11.0)], block_s=1.0)
    assert [each.predictions for each in left] == [None, (1,)]


def test_of_very_many_classes_the_rarer_ones_are_counted_together() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    answers = [answer(5.0, f"c{i:03}") for i in range(200) for _ in range(1 + (i < 49))]
    add_predictions(connection, answers, block_s=1.0)
    names, blocks = with_predictions(connection, [block(5.0)], block_s=1.0)
    assert len(names) == MAX_CLASSES
    assert names[-1] == OTHER
    assert blocks[0].predictions == (2,) * 49 + (151,)
