"""Retention in SQLite: what is deleted, and when."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Mapping

from coalmine.records._sqlite_schema import key_of, span_of

__all__ = ["expire"]

#: A label may come before its record; it is not taken for an orphan before this many seconds.
_LABEL_GRACE = 86_400.0


def expire(
    connection: sqlite3.Connection,
    *,
    now: float,
    partitions: int,
    max_age: float | None,
    max_bytes: int | None,
    up_to: Mapping[int, int] | None,
) -> int:
    """Within the caller's transaction, delete old batches and their labels; the rows deleted."""
    spans = [span_of(partition) for partition in range(partitions)]
    limits = [
        high if up_to is None else key_of(partition, up_to.get(partition, 0))
        for partition, (_, high) in enumerate(spans)
    ]
    deleted = 0
    if max_age is not None:
        oldest = round((now - max_age) * 1_000_000)
        for (low, _), limit in zip(spans, limits, strict=True):
            deleted += _delete(
                connection, "key BETWEEN ? AND ? AND max_time < ?", low, limit, oldest
            )
    if max_bytes is not None:
        kept = _first_kept(connection, spans, max_bytes)
        for (low, _), limit, first in zip(spans, limits, kept, strict=True):
            deleted += _delete(connection, "key BETWEEN ? AND ? AND key < ?", low, limit, first)
    if deleted:
        _delete_labels(connection, now=now)
    return deleted


def _first_kept(
    connection: sqlite3.Connection, spans: list[tuple[int, int]], max_bytes: int
) -> list[int]:
    """The smallest key of each partition such that all from there on fit, the newest first."""
    newest_first = [_newest_first(connection, *pair) for pair in enumerate(spans)]
    kept = [high for _, high in spans]
    total = 0
    for _, partition, key, size in heapq.merge(*newest_first, key=lambda entry: entry[:2]):
        total += size
        if total > max_bytes:
            break
        kept[partition] = key
    return kept


def _newest_first(
    connection: sqlite3.Connection, partition: int, span: tuple[int, int]
) -> Iterator[tuple[float, int, int, int]]:
    for key, size, appended_at in connection.execute(
        "SELECT key, bytes, appended_at FROM batches WHERE key BETWEEN ? AND ? ORDER BY key DESC",
        span,
    ):
        yield -appended_at, partition, key, size


def _delete(connection: sqlite3.Connection, where: str, *values: int) -> int:
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
    (oldest,) = connection.execute("SELECT min(appended_at) FROM batches").fetchone()
    before = (now if oldest is None else oldest) - _LABEL_GRACE
    cursor = connection.execute("DELETE FROM labels WHERE received_at < ?", (before,))
    connection.execute("UPDATE totals SET labels = labels - ?", (cursor.rowcount,))
