"""Retention in SQLite: what is deleted, and when."""

from __future__ import annotations

import sqlite3

__all__ = ["expire"]

#: A label may come before its record; it is not taken for an orphan before this many seconds.
_LABEL_GRACE = 86_400.0


def expire(
    connection: sqlite3.Connection,
    *,
    now: float,
    max_age: float | None,
    max_bytes: int | None,
    up_to: int | None,
) -> int:
    """Within the caller's transaction, delete old batches and their labels; the rows deleted."""
    limit = 2**62 if up_to is None else up_to
    deleted = 0
    if max_age is not None:
        oldest = round((now - max_age) * 1_000_000)
        deleted += _delete(connection, "max_time < ? AND offset <= ?", (oldest, limit))
    if max_bytes is not None:
        first_kept = _first_kept(connection, max_bytes)
        deleted += _delete(connection, "offset < ? AND offset <= ?", (first_kept, limit))
    if deleted:
        _delete_labels(connection, now=now)
    return deleted


def _first_kept(connection: sqlite3.Connection, max_bytes: int) -> int:
    """The smallest offset such that it and all after it fit."""
    total, first = 0, 2**62
    for offset, size in connection.execute(
        "SELECT offset, bytes FROM batches ORDER BY offset DESC"
    ):
        total += size
        if total > max_bytes:
            break
        first = offset
    return first


def _delete(connection: sqlite3.Connection, where: str, values: tuple[int, int]) -> int:
    rows, batches, size = connection.execute(
        f"SELECT coalesce(sum(rows), 0), count(*), coalesce(sum(bytes), 0) FROM batches"
        f" WHERE {where}",
        values,
    ).fetchone()
    connection.execute(f"DELETE FROM batches WHERE {where}", values)
    connection.execute(
        "UPDATE totals SET rows = rows - ?, batches = batches - ?, bytes = bytes - ?",
        (rows, batches, size),
    )
    return int(rows)


def _delete_labels(connection: sqlite3.Connection, *, now: float) -> None:
    oldest = connection.execute(
        "SELECT appended_at FROM batches ORDER BY offset LIMIT 1"
    ).fetchone()
    before = (now if oldest is None else oldest[0]) - _LABEL_GRACE
    cursor = connection.execute("DELETE FROM labels WHERE received_at < ?", (before,))
    connection.execute("UPDATE totals SET labels = labels - ?", (cursor.rowcount,))
