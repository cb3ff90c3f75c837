"""Labelled rows that wait until their time's labels are mature.

What fails early is labelled first: of rows that are young only the bad ones may have labels yet,
and a test that took each label as it comes would find a loss where there is none. So a labelled row
waits until it is as old as `monitors.performance.maturity` says, and is judged with those of its
time. Rows wait in SQLite: a kill loses none, and what a corrected label says meanwhile counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from coalmine_monitors.performance._join import JoinedRow, Scored, joined_from, scored

__all__ = ["TABLES", "matured", "wait"]

TABLES = """
CREATE TABLE IF NOT EXISTS waiting (
    request_id TEXT, row INTEGER, arm TEXT, due REAL, PRIMARY KEY (request_id, row, arm)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_by_due ON waiting (due);
"""


def wait(connection: sqlite3.Connection, rows: Iterable[Scored], *, maturity: float) -> None:
    """Keep rows that got their first label until they are mature, or labelled, if that is later."""
    connection.executemany(
        "INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?)",
        [
            (*_key(row.joined), max(row.label_time, row.time + maturity))
            for row in rows
            if row.joined is not None
        ],
    )


def matured(connection: sqlite3.Connection, *, until: float, limit: int) -> list[Scored]:
    """Take about `limit` of the rows that are due by a record time, in the order of that.

    The order does not depend on when the labels were read, so that a replay comes to the same
    verdicts. Rows that mature together are judged together, as those labelled together are.
    """
    later = connection.execute(
        "SELECT due FROM waiting WHERE due <= ? ORDER BY due LIMIT 1 OFFSET ?", (until, limit)
    ).fetchone()
    cut = until if later is None else float(later[0])
    query = "SELECT request_id, row, arm, due FROM waiting WHERE due <= ?"
    due = {(name, row, arm): at for name, row, arm, at in connection.execute(query, (cut,))}
    if not due:
        return []
    rows = joined_from(
        connection,
        "(SELECT DISTINCT request_id, row FROM waiting WHERE due <= ?) w",
        order="l.offset, a.time, a.arm",
        values=(cut,),
    )
    connection.execute("DELETE FROM waiting WHERE due <= ?", (cut,))
    mine = [row for row in rows if _key(row) in due]
    mine.sort(key=lambda row: due[_key(row)])  # stable: those due at once stay as labelled
    return [scored(row)._replace(label_time=due[_key(row)]) for row in mine]


def _key(row: JoinedRow) -> tuple[str, int, str]:
    return row.request_id, row.row, row.arm
