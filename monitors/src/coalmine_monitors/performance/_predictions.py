"""How often each class was predicted, by block: what drift between two arms is seen in."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping

from coalmine_monitors.performance._join import Answer, Cell
from coalmine_monitors.performance._schema import Block

__all__ = ["TABLES", "add_predictions", "forget_predictions", "with_predictions"]

#: Classes beyond the most frequent ones are counted together, under a name that no class has.
MAX_CLASSES = 50
OTHER = "__other__"

TABLES = """
CREATE TABLE IF NOT EXISTS predictions (
    block INTEGER, version TEXT, arm TEXT, class TEXT, count INTEGER,
    PRIMARY KEY (block, version, arm, class)
) WITHOUT ROWID;
"""


def add_predictions(
    connection: sqlite3.Connection, answers: Iterable[Answer], *, block_s: float
) -> None:
    """Add answers to the totals."""
    found = Counter(
        (int(each.time // block_s), each.version, each.arm, each.answer)
        for each in answers
        if each.answer is not None
    )
    connection.executemany(
        "INSERT INTO predictions VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [(*key, count) for key, count in found.items()],
    )


def with_predictions(
    connection: sqlite3.Connection, blocks: Iterable[Block], *, block_s: float
) -> tuple[tuple[str, ...], tuple[Block, ...]]:
    """The names of the classes, and the blocks with how often each was predicted.

    A block without any prediction has None: its model has no classes, or answered nothing.
    """
    blocks = tuple(blocks)
    if not blocks:
        return (), ()
    numbers = [round(block.time / block_s) for block in blocks]
    rows = connection.execute(
        "SELECT block, version, arm, class, count FROM predictions WHERE block BETWEEN ? AND ?",
        (min(numbers), max(numbers)),
    )
    counts: dict[Cell, dict[str, int]] = {}
    totals: Counter[str] = Counter()
    for number, version, arm, name, count in rows:
        counts.setdefault(Cell(number, version, arm), {})[name] = count
        totals[name] += count
    names = _names(totals)
    return names, tuple(
        block.model_copy(
            update={
                "predictions": _counts(counts.get(Cell(number, block.version, block.arm)), names)
            }
        )
        for number, block in zip(numbers, blocks, strict=True)
    )


def forget_predictions(connection: sqlite3.Connection, *, oldest: float, block_s: float) -> None:
    """Delete the totals of blocks that began before."""
    connection.execute("DELETE FROM predictions WHERE block < ?", (int(oldest // block_s),))


def _names(totals: Counter[str]) -> tuple[str, ...]:
    if len(totals) <= MAX_CLASSES:
        return tuple(sorted(totals))
    frequent = sorted(totals, key=lambda name: (-totals[name], name))[: MAX_CLASSES - 1]
    return (*sorted(frequent), OTHER)


def _counts(found: Mapping[str, int] | None, names: tuple[str, ...]) -> tuple[int, ...] | None:
    if found is None:
        return None
    known = [found.get(name, 0) for name in names]
    if names[-1] == OTHER:
        known[-1] = sum(found.values()) - sum(known)
    return tuple(known)
