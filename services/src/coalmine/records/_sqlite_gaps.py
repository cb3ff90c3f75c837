"""Rows of an emitter that were passed over: what comes out of order is told from what comes twice.

Emitters send in order and leave out only what they lost, but a client with several connections may
be overtaken by itself. A gap is kept when a later row is appended, until its own rows come.
"""

from __future__ import annotations

import sqlite3

__all__ = ["fill_gaps", "leave_gap"]

#: Of an emitter; beyond it the oldest are forgotten, and their rows count as known.
_MOST = 10_000


def leave_gap(connection: sqlite3.Connection, emitter: str, first: int, last: int) -> None:
    """Within the caller's transaction: these rows have been passed over."""
    connection.execute("INSERT INTO gaps VALUES (?, ?, ?)", (emitter, first, last))
    connection.execute(
        "DELETE FROM gaps WHERE emitter = ? AND first <= (SELECT first FROM gaps WHERE emitter = ?"
        " ORDER BY first DESC LIMIT 1 OFFSET ?)",
        (emitter, emitter, _MOST),
    )


def fill_gaps(
    connection: sqlite3.Connection, emitter: str, first: int, last: int
) -> list[tuple[int, int]]:
    """Within the caller's transaction: those of the rows that had been passed over, and are not
    from now on; as first and last of each run, in order."""
    gaps = connection.execute(
        "SELECT first, last FROM gaps WHERE emitter = ? AND first <= ? AND last >= ?"
        " ORDER BY first",
        (emitter, last, first),
    ).fetchall()
    for low, high in gaps:
        connection.execute("DELETE FROM gaps WHERE emitter = ? AND first = ?", (emitter, low))
        left = [(low, first - 1)] if low < first else []
        left += [(last + 1, high)] if high > last else []
        connection.executemany(
            "INSERT INTO gaps VALUES (?, ?, ?)", [(emitter, *piece) for piece in left]
        )
    return [(max(low, first), min(high, last)) for low, high in gaps]
