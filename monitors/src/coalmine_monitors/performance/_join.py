"""Answers and labels, joined whichever comes first, and what each joined row adds to the totals.

Both wait in SQLite, so the join survives a kill and needs no memory. A delivery is counted by its
difference: what the rows it touches contributed before is subtracted from what they contribute
after. Late labels, corrected labels and records that come after their labels are then all the same
case, and nothing is counted twice.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coalmine.arms import Arm
from coalmine.records import Label

__all__ = [
    "MAX_ROWS",
    "TABLES",
    "Answer",
    "Cell",
    "Joined",
    "JoinedRow",
    "PairCell",
    "Scored",
    "forget",
    "join",
    "joined_from",
    "score_by_block",
    "scored",
]

TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    request_id TEXT, row INTEGER, arm TEXT, version TEXT, time REAL, answer TEXT, number TEXT,
    chance REAL, klass INTEGER, value REAL, said BLOB, segments TEXT,
    PRIMARY KEY (request_id, row, arm)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (time);
CREATE TABLE IF NOT EXISTS labels (
    request_id TEXT, row INTEGER, label TEXT, time REAL, offset INTEGER,
    PRIMARY KEY (request_id, row)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_by_offset ON labels (offset);
"""

#: Null where the answer is a number: no label equals it, and that is no mistake.
_CORRECT = (
    "(CASE WHEN a.answer IS NULL THEN NULL"
    " ELSE l.label = a.answer OR (a.number IS NOT NULL AND l.label = a.number) END)"
)

#: Answers that wait for a label at most this long, in record time.
MAX_AGE = 30 * 86400.0
#: Answers, and labels, that are kept at most; the oldest go first. Some 150 bytes each.
MAX_ROWS = 2_000_000


class Answer(NamedTuple):
    """One answered row; `number` is its class's index in decimal, None where that is ambiguous."""

    request_id: str
    row: int
    arm: str
    version: str
    time: float
    answer: str | None
    """The name of the class; None of a model that answers with a number, `value`."""

    number: str | None
    chance: float | None = None
    """To be right, as far as the model's own confidence tells."""

    klass: int = -1
    value: float | None = None
    said: bytes | None = None
    """The chances of the classes, as float32; None if it gave none."""

    segments: str = ""


class Cell(NamedTuple):
    """What labelled rows are added up by."""

    block: int
    version: str
    arm: str


class PairCell(NamedTuple):
    """What rows answered by two arms are added up by; `a` is not the shadow, `b` is."""

    block: int
    a_version: str
    a_arm: str
    b_version: str
    b_arm: str


class Scored(NamedTuple):
    """A row that got its first label."""

    version: str
    arm: str
    time: float
    label_time: float
    label_offset: int
    correct: bool
    chance: float | None = None
    joined: JoinedRow | None = None


@dataclass(frozen=True)
class Joined:
    """What a delivery changed: differences of totals, and newly scored rows in order of arrival."""

    labelled: Counter[Cell]
    correct: Counter[Cell]
    pairs: dict[PairCell, Counter[tuple[bool, bool]]]
    scored: list[Scored]
    before: list[JoinedRow]
    """The rows that the delivery touches, as they were joined before; and `after`."""

    after: list[JoinedRow]


class JoinedRow(NamedTuple):
    """An answer with its label."""

    request_id: str
    row: int
    arm: str
    version: str
    time: float
    correct: int | None
    """None where the answer is a number."""

    label_time: float
    label_offset: int
    chance: float | None
    label: str
    klass: int
    value: float | None
    said: bytes | None
    segments: str


def join(
    connection: sqlite3.Connection,
    *,
    answers: Sequence[Answer],
    labels: Sequence[Label],
    block_s: float,
) -> Joined:
    """Take in a delivery. The first answer to a row by an arm counts, and the newest label."""
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS touched (request_id TEXT, row INTEGER,"
        " PRIMARY KEY (request_id, row)) WITHOUT ROWID"
    )
    connection.execute("DELETE FROM touched")
    connection.executemany(
        "INSERT OR IGNORE INTO touched VALUES (?, ?)",
        [
            *((answer.request_id, answer.row) for answer in answers),
            *((label.request_id, label.row) for label in labels),
        ],
    )
    before = _joined_rows(connection)
    # A client or a gateway that tries again sends the same request id twice.
    connection.executemany(
        f"INSERT OR IGNORE INTO answers VALUES ({', '.join('?' * len(Answer._fields))})", answers
    )
    connection.executemany(
        "INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?)",
        [(item.request_id, item.row, item.label, item.time, item.offset) for item in labels],
    )
    after = _joined_rows(connection)
    labelled: Counter[Cell] = Counter()
    correct: Counter[Cell] = Counter()
    pairs: dict[PairCell, Counter[tuple[bool, bool]]] = {}
    for rows, sign in ((before, -1), (after, 1)):
        for row in rows:
            if row.correct is None:
                continue
            cell = Cell(int(row.time // block_s), row.version, row.arm)
            labelled[cell] += sign
            correct[cell] += sign * row.correct
        for pair, outcome in _pairs(rows, block_s=block_s):
            pairs.setdefault(pair, Counter())[outcome] += sign
    known = {(row.request_id, row.row, row.arm) for row in before}
    fresh = [scored(row) for row in after if (row.request_id, row.row, row.arm) not in known]
    return Joined(labelled, correct, pairs, fresh, before, after)


def scored(row: JoinedRow) -> Scored:
    """A labelled row, as it is judged."""
    return Scored(
        version=row.version,
        arm=row.arm,
        time=row.time,
        label_time=row.label_time,
        label_offset=row.label_offset,
        correct=bool(row.correct),
        chance=row.chance,
        joined=row,
    )


def _joined_rows(connection: sqlite3.Connection) -> list[JoinedRow]:
    """The touched rows that have an answer and a label, in the order in which labels came."""
    return joined_from(connection, "touched t", order="l.offset, a.time, a.arm")


def joined_from(
    connection: sqlite3.Connection,
    source: str,
    *,
    order: str,
    values: Sequence[float] = (),
) -> list[JoinedRow]:
    """The rows of a table (`request_id`, `row`) that have an answer `a` and a label `l`."""
    query = f"""
        SELECT a.request_id, a.row, a.arm, a.version, a.time, {_CORRECT}, l.time, l.offset,
               a.chance, l.label, a.klass, a.value, a.said, a.segments
        FROM {source} CROSS JOIN labels l USING (request_id, row)
             CROSS JOIN answers a USING (request_id, row)
        ORDER BY {order}"""
    return [JoinedRow(*row) for row in connection.execute(query, tuple(values))]


def score_by_block(
    connection: sqlite3.Connection,
    *,
    version: str,
    since: float,
    block_s: float,
    until: float | None = None,
    before_label: int | None = None,
) -> list[tuple[float, int, int]]:
    """Start, labelled and correct rows of each block since `since` that clients saw of a version.

    Of rows answered by `until`, and of labels with an offset below `before_label`: what was known
    when that one came.
    """
    query = f"""
        SELECT cast(a.time / ? AS INTEGER) AS block, count({_CORRECT}), sum({_CORRECT})
        FROM answers a CROSS JOIN labels l USING (request_id, row)
        WHERE a.time >= ? AND a.version = ? AND a.arm != ?
          AND a.time <= coalesce(?, a.time) AND l.offset < coalesce(?, l.offset + 1)
        GROUP BY block ORDER BY block"""
    values = (block_s, since, version, Arm.SHADOW, until, before_label)
    rows = connection.execute(query, values)
    return [(block * block_s, labelled, correct) for block, labelled, correct in rows]


def _pairs(
    rows: Iterable[JoinedRow], *, block_s: float
) -> Iterable[tuple[PairCell, tuple[bool, bool]]]:
    shadows = {(row.request_id, row.row): row for row in rows if row.arm == Arm.SHADOW}
    for row in rows:
        other = shadows.get((row.request_id, row.row))
        if other is None or row.arm == Arm.SHADOW or row.correct is None:
            continue
        block = int(row.time // block_s)
        cell = PairCell(block, row.version, row.arm, other.version, other.arm)
        yield cell, (bool(row.correct), bool(other.correct))


def forget(connection: sqlite3.Connection, *, newest: float) -> int:
    """Delete answers and labels that have waited too long, or are too many.

    Returns how many answers were deleted for being too many.
    """
    connection.execute("DELETE FROM answers WHERE time < ?", (newest - MAX_AGE,))
    crowded = connection.execute(
        "DELETE FROM answers WHERE time <"
        " (SELECT time FROM answers ORDER BY time DESC LIMIT 1 OFFSET ?)",
        (MAX_ROWS,),
    ).rowcount
    connection.execute(
        "DELETE FROM labels WHERE offset <= (SELECT max(offset) FROM labels) - ?", (MAX_ROWS,)
    )
    return crowded
