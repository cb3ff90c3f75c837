"""The record log in one SQLite file, for any number of processes.

Batches lie as Arrow IPC bytes beside the few columns that are searched. Writers take turns (`BEGIN
IMMEDIATE`), so offsets are given in the order of commits and a reader that has seen one has seen
all before it. Within a process, appends that wait for each other share one commit, thus one fsync.
An emitter's high-water mark is stored in the transaction of its batch: whatever is sent again after
a lost acknowledgement is recognised row by row.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records._batches import PackedBatch, pack, unpack
from coalmine.records._errors import LogError, LogFullError, LogUnavailableError
from coalmine.records._expiry import expire
from coalmine.records._fingerprints import KnownRequests
from coalmine.records._labels import join_labels, refresh, store_labels
from coalmine.records._pool import Pool
from coalmine.records._schema import BASE_FIELDS
from coalmine.records._sqlite_schema import connect, create_tables
from coalmine.records._types import BatchId, EmitterState, Label, LabelCounts, LogStats

__all__ = ["SqliteRecordLog"]

#: Rows joined with labels at once; bounds the memory of `labelled` beside its result.
_JOIN_ROWS = 65_536


@dataclass(slots=True)
class _Append:
    batch: pa.RecordBatch
    batch_id: BatchId
    packed: PackedBatch
    dropped: int
    offset: int = 0
    error: LogError | None = None

    @property
    def is_done(self) -> bool:
        return self.offset > 0 or self.error is not None


class SqliteRecordLog:
    """See `RecordLog`, of which this is the embedded backend."""

    def __init__(self, path: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        with _translated():
            create_tables(path)
            self._writer = connect(path)
        self._readers = Pool(lambda: connect(path))
        self._write_lock = threading.Lock()
        self._queue_lock = threading.Lock()
        self._queue: list[_Append] = []
        self._known = KnownRequests()
        self._known_to = 0

    def append(self, batch: pa.RecordBatch, *, batch_id: BatchId, dropped: int = 0) -> int:
        """See `RecordLog.append`."""
        mine = _Append(batch, batch_id, pack(batch, batch_id), dropped)
        with self._queue_lock:
            self._queue.append(mine)
        with self._write_lock:
            if not mine.is_done:  # else somebody who had the lock before committed it too
                with self._queue_lock:
                    group, self._queue = self._queue, []
                self._commit(group)
        if mine.error is not None:
            raise mine.error
        return mine.offset

    def read(
        self, after: int, *, limit_rows: int, model_version: str | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """See `RecordLog.read`."""
        where = "offset > ?"
        values: list[object] = [after]
        if model_version is not None:
            where += " AND model_version = ?"
            values.append(model_version)
        result, rows = [], 0
        with _translated(), self._readers.lend() as connection:
            for offset, batch in _batches(connection, where, values):
                result.append((offset, batch))
                rows += batch.num_rows
                if rows >= limit_rows:
                    break
        return result

    def end_offset(self) -> int:
        """See `RecordLog.end_offset`."""
        with _translated(), self._readers.lend() as connection:
            row = connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'batches'"
            ).fetchone()
        return 0 if row is None else int(row[0])

    def put_labels(self, labels: Sequence[Label]) -> LabelCounts:
        """See `RecordLog.put_labels`."""
        if not labels:
            return LabelCounts()
        with _translated(), self._write_lock, _transaction(self._writer):
            self._known_to = refresh(self._writer, self._known, self._known_to)
            return store_labels(self._writer, labels, known=self._known, now=self._clock.time())

    def labels_after(self, after: int, limit: int) -> list[Label]:
        """See `RecordLog.labels_after`."""
        with _translated(), self._readers.lend() as connection:
            rows = connection.execute(
                "SELECT request_id, label, time, row, offset FROM labels"
                " WHERE offset > ? ORDER BY offset LIMIT ?",
                (after, limit),
            ).fetchall()
        return [Label(*row) for row in rows]

    def labelled(
        self,
        model_version: str | None = None,
        since: float | None = None,
        until: float | None = None,
        *,
        arms: Collection[str] | None = None,
    ) -> pa.Table:
        """See `RecordLog.labelled`."""
        low = None if since is None else round(since * 1_000_000)
        high = None if until is None else round(until * 1_000_000)
        conditions = {
            "model_version = ?": model_version, "max_time >= ?": low, "min_time < ?": high
        }  # fmt: skip
        given = {text: value for text, value in conditions.items() if value is not None}
        where, values = " AND ".join(["TRUE", *given]), list(given.values())
        if arms is not None:
            where += f" AND arm IN ({', '.join('?' * len(arms))})"
            values += list(arms)
        tables: list[pa.Table] = []
        with _translated(), self._readers.lend() as connection:
            found = (batch for _, batch in _batches(connection, where, values))
            for table in _chunks(found):
                joined = join_labels(connection, _between(table, low, high))
                if joined.num_rows or not tables:
                    tables.append(joined)
        if not tables:
            return pa.schema([*BASE_FIELDS, pa.field("true_label", pa.string())]).empty_table()
        return pa.concat_tables(tables, promote_options="permissive").sort_by("time")

    def stats(self) -> LogStats:
        """See `RecordLog.stats`."""
        with (
            _translated(),
            self._readers.lend() as connection,
            _transaction(connection, "DEFERRED"),
        ):
            rows, batches, labels, size = connection.execute(
                "SELECT rows, batches, labels, bytes FROM totals"
            ).fetchone()
            emitters = {
                name: EmitterState(*state)
                for name, *state in connection.execute(
                    "SELECT id, last_seq, rows, dropped FROM emitters"
                )
            }
        return LogStats(rows=rows, batches=batches, labels=labels, bytes=size, emitters=emitters)

    def expire(
        self,
        *,
        max_age: float | None = None,
        max_bytes: int | None = None,
        up_to: int | None = None,
    ) -> int:
        """See `RecordLog.expire`. Labels go a day after the last batch they could belong to."""
        with _translated(), self._write_lock:
            with _transaction(self._writer):
                rows = expire(
                    self._writer,
                    now=self._clock.time(),
                    max_age=max_age,
                    max_bytes=max_bytes,
                    up_to=up_to,
                )
            self._writer.execute("PRAGMA incremental_vacuum").fetchall()
        return rows

    def close(self) -> None:
        """See `RecordLog.close`."""
        with self._write_lock:
            self._readers.close()
            self._writer.close()

    def _commit(self, group: list[_Append]) -> None:
        offsets: list[int] = []
        try:
            with _translated(), _transaction(self._writer):
                for one in group:
                    offsets.append(self._insert(one))
        except LogError as error:
            for one in group:
                one.error = error
        else:
            for one, offset in zip(group, offsets, strict=True):
                one.offset = offset

    def _insert(self, one: _Append) -> int:
        emitter, first, last = one.batch_id
        row = self._writer.execute(
            "SELECT last_seq, last_offset FROM emitters WHERE id = ?", (emitter,)
        ).fetchone()
        last_seq, offset = (0, 0) if row is None else row
        packed = one.packed
        if first <= last_seq < last:
            tail = one.batch.slice(last_seq + 1 - first)
            packed = pack(tail, BatchId(emitter, last_seq + 1, last))
        if last > last_seq:
            offset = _insert_batch(self._writer, packed, now=self._clock.time())
        self._writer.execute(
            "INSERT INTO emitters (id, last_seq, last_offset, rows, dropped) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET last_seq = excluded.last_seq,"
            " last_offset = excluded.last_offset, rows = rows + excluded.rows,"
            " dropped = max(dropped, excluded.dropped)",
            (emitter, max(last, last_seq), offset, max(0, last - max(last_seq, first - 1)),
             one.dropped),
        )  # fmt: skip
        return int(offset)


def _insert_batch(connection: sqlite3.Connection, packed: PackedBatch, *, now: float) -> int:
    connection.execute("INSERT OR IGNORE INTO schemas (body) VALUES (?)", (packed.schema,))
    size = len(packed.body)
    cursor = connection.execute(
        "INSERT INTO batches (schema_id, model_version, arm, rows, bytes, min_time, max_time,"
        " appended_at, requests, body)"
        " SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM schemas WHERE body = ?",
        (packed.model_version, packed.arm, packed.rows, size, packed.min_time, packed.max_time,
         now, packed.requests, packed.body, packed.schema),
    )  # fmt: skip
    connection.execute(
        "UPDATE totals SET rows = rows + ?, batches = batches + 1, bytes = bytes + ?",
        (packed.rows, size),
    )
    return int(cursor.lastrowid or 0)


def _batches(
    connection: sqlite3.Connection, where: str, values: Sequence[object]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    schemas: dict[int, pa.Schema] = {}
    cursor = connection.execute(
        f"SELECT offset, schema_id, body FROM batches WHERE {where} ORDER BY offset", values
    )
    try:
        for offset, schema_id, body in cursor:
            if schema_id not in schemas:
                (text,) = connection.execute(
                    "SELECT body FROM schemas WHERE id = ?", (schema_id,)
                ).fetchone()
                schemas[schema_id] = pa.ipc.read_schema(pa.py_buffer(text))
            yield offset, unpack(body, schemas[schema_id])
    finally:
        cursor.close()  # ends the read transaction, which would keep the WAL from shrinking


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of some ten thousand rows, each of one schema."""
    group: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if group and (rows >= _JOIN_ROWS or batch.schema != group[0].schema):
            yield pa.Table.from_batches(group)
            group, rows = [], 0
        group.append(batch)
        rows += batch.num_rows
    if group:
        yield pa.Table.from_batches(group)


def _between(table: pa.Table, low: int | None, high: int | None) -> pa.Table:
    time = table.column("time").cast(pa.int64())
    if low is not None:
        table = table.filter(pc.greater_equal(time, low))
        time = table.column("time").cast(pa.int64())
    return table if high is None else table.filter(pc.less(time, high))


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors as the log's."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":  # not every error has one
            raise LogFullError(str(error)) from error
        raise LogUnavailableError(str(error)) from error
