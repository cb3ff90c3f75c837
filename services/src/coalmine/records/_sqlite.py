"""The record log in one SQLite file, for any number of processes.

Batches lie as Arrow IPC bytes beside the few columns that are searched. Writers take turns (`BEGIN
IMMEDIATE`), so offsets are given in the order of commits and a reader that has seen one has seen
all before it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.compute as pc

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records._batches import pack, unpack
from coalmine.records._errors import LogError, MalformedBatchError
from coalmine.records._expiry import expire
from coalmine.records._fingerprints import KnownRequests
from coalmine.records._labels import common_classes, join_labels, refresh, store_labels
from coalmine.records._pool import Pool
from coalmine.records._schema import BASE_FIELDS
from coalmine.records._sqlite_append import Append, Appender
from coalmine.records._sqlite_schema import connect, create_tables, key_of, offset_of, span_of
from coalmine.records._sqlite_transaction import transaction, translated
from coalmine.records._types import (
    BatchId,
    EmitterState,
    Label,
    LabelCounts,
    LogStats,
    NewBatch,
)

__all__ = ["SqliteRecordLog"]

#: Rows joined with labels at once; bounds the memory of `labelled` beside its result.
_JOIN_ROWS = 65_536


class SqliteRecordLog:
    """See `RecordLog`, of which this is the embedded backend."""

    def __init__(
        self, path: Path, *, clock: Clock = SYSTEM_CLOCK, partitions: int | None = None
    ) -> None:
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        with translated():
            self._partitions = create_tables(path, partitions=partitions)
            self._writer = connect(path)
        self._readers = Pool(lambda: connect(path))
        self._write_lock = threading.Lock()
        self._appender = Appender(self._writer, lock=self._write_lock, clock=clock)
        self._known = KnownRequests()
        self._known_to = dict.fromkeys(range(self._partitions), 0)

    @property
    def partitions(self) -> int:
        """See `RecordLog.partitions`."""
        return self._partitions

    def partition_of(self, key: str) -> int:
        """See `RecordLog.partition_of`."""
        return crc32(key.encode("utf-8", "surrogatepass")) % self._partitions

    def append(
        self, batch: pa.RecordBatch, *, batch_id: BatchId, key: str | None = None, dropped: int = 0
    ) -> int:
        """See `RecordLog.append`."""
        (result,) = self.append_all([NewBatch(batch, batch_id, key, dropped)])
        if isinstance(result, Exception):
            raise result
        return result

    def append_all(self, batches: Sequence[NewBatch]) -> list[int | MalformedBatchError | LogError]:
        """See `RecordLog.append_all`."""
        results: list[int | MalformedBatchError | LogError] = []
        group: list[Append] = []
        for new in batches:
            try:
                packed = pack(new.batch, new.batch_id)
            except MalformedBatchError as error:
                results.append(error)
                continue
            partition = self.partition_of(packed.model_name if new.key is None else new.key)
            group.append(Append(new, packed, partition))
            results.append(0)
        done = iter(self._appender.append(group))
        return [next(done) if result == 0 else result for result in results]

    def read(
        self, after: int, *, limit_rows: int, partition: int = 0, model_version: str | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """See `RecordLog.read`."""
        where = "key > ? AND key <= ?"
        values: list[object] = [key_of(partition, after), self._span(partition)[1]]
        if model_version is not None:
            where += " AND model_version = ?"
            values.append(model_version)
        result, rows = [], 0
        with translated(), self._readers.lend() as connection:
            for key, batch in _batches(connection, where, values):
                result.append((offset_of(key), batch))
                rows += batch.num_rows
                if rows >= limit_rows:
                    break
        return result

    def end_offset(self, partition: int = 0) -> int:
        """See `RecordLog.end_offset`."""
        self._span(partition)
        with translated(), self._readers.lend() as connection:
            (offset,) = connection.execute(
                "SELECT end_offset FROM partitions WHERE id = ?", (partition,)
            ).fetchone()
        return int(offset)

    def offset_before(self, time: float, *, partition: int = 0) -> int:
        """See `RecordLog.offset_before`."""
        with translated(), self._readers.lend() as connection:
            (key,) = connection.execute(
                "SELECT min(key) FROM batches INDEXED BY batches_time"
                " WHERE max_time >= ? AND key BETWEEN ? AND ?",
                (_microseconds(time), *self._span(partition)),
            ).fetchone()
        return self.end_offset(partition) if key is None else offset_of(key) - 1

    def commit(self, consumer: str, offsets: Mapping[int, int]) -> None:
        """See `RecordLog.commit`."""
        for partition in offsets:
            self._span(partition)
        with translated(), self._write_lock, transaction(self._writer):
            self._writer.executemany(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)",
                [(consumer, partition, offset) for partition, offset in offsets.items()],
            )

    def committed(self, consumer: str) -> dict[int, int]:
        """See `RecordLog.committed`."""
        with translated(), self._readers.lend() as connection:
            rows = connection.execute(
                "SELECT partition, offset FROM cursors WHERE consumer = ?", (consumer,)
            ).fetchall()
        return dict.fromkeys(range(self._partitions), 0) | dict(rows)

    def put_labels(self, labels: Sequence[Label]) -> LabelCounts:
        """See `RecordLog.put_labels`."""
        if not labels:
            return LabelCounts()
        with translated(), self._write_lock, transaction(self._writer):
            for partition, after in self._known_to.items():
                self._known_to[partition] = refresh(
                    self._writer, self._known, partition=partition, after=after
                )
            return store_labels(self._writer, labels, known=self._known, now=self._clock.time())

    def labels_after(self, after: int, limit: int) -> list[Label]:
        """See `RecordLog.labels_after`."""
        with translated(), self._readers.lend() as connection:
            rows = connection.execute(
                "SELECT request_id, label, time, row, offset FROM labels"
                " WHERE offset > ? ORDER BY offset LIMIT ?",
                (after, limit),
            ).fetchall()
        return [Label(*row) for row in rows]

    def end_label(self) -> int:
        """See `RecordLog.end_label`."""
        with translated(), self._readers.lend() as connection:
            (offset,) = connection.execute("SELECT coalesce(max(offset), 0) FROM labels").fetchone()
        return int(offset)

    def classes(self) -> tuple[str, ...]:
        """See `RecordLog.classes`."""
        with translated(), self._readers.lend() as connection:
            return common_classes(connection)

    def labelled(
        self,
        model_version: str | None = None,
        since: float | None = None,
        until: float | None = None,
        *,
        arms: Collection[str] | None = None,
        labels_up_to: int | None = None,
    ) -> pa.Table:
        """See `RecordLog.labelled`."""
        low = None if since is None else _microseconds(since)
        high = None if until is None else _microseconds(until)
        conditions = {
            "model_version = ?": model_version, "max_time >= ?": low, "min_time < ?": high
        }  # fmt: skip
        given = {text: value for text, value in conditions.items() if value is not None}
        where, values = " AND ".join(["TRUE", *given]), list(given.values())
        if arms is not None:
            where += f" AND arm IN ({', '.join('?' * len(arms))})"
            values += list(arms)
        tables: list[pa.Table] = []
        with translated(), self._readers.lend() as connection:
            found = (batch for _, batch in _batches(connection, where, values))
            for table in _chunks(found):
                joined = join_labels(connection, _between(table, low, high), up_to=labels_up_to)
                if joined.num_rows or not tables:
                    tables.append(joined)
        if not tables:
            return pa.schema([*BASE_FIELDS, pa.field("true_label", pa.string())]).empty_table()
        return pa.concat_tables(tables, promote_options="permissive").sort_by("time")

    def stats(self) -> LogStats:
        """See `RecordLog.stats`."""
        with (
            translated(),
            self._readers.lend() as connection,
            transaction(connection, "DEFERRED"),
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
        up_to: Mapping[int, int] | None = None,
    ) -> int:
        """See `RecordLog.expire`. Labels go a day after the last batch they could belong to."""
        with translated(), self._write_lock:
            with transaction(self._writer):
                rows = expire(
                    self._writer,
                    now=self._clock.time(),
                    partitions=self._partitions,
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

    def _span(self, partition: int) -> tuple[int, int]:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition}: the log has {self._partitions}, from 0")
        return span_of(partition)


def _microseconds(time: float) -> int:
    """A time as the log has it; what is beyond all of them is the first or last there is."""
    return round(min(max(time * 1_000_000, -(2.0**62)), 2.0**62))


def _batches(
    connection: sqlite3.Connection, where: str, values: Sequence[object]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    schemas: dict[int, pa.Schema] = {}
    cursor = connection.execute(
        f"SELECT key, schema_id, body FROM batches WHERE {where} ORDER BY key", values
    )
    try:
        for key, schema_id, body in cursor:
            if schema_id not in schemas:
                (text,) = connection.execute(
                    "SELECT body FROM schemas WHERE id = ?", (schema_id,)
                ).fetchone()
                schemas[schema_id] = pa.ipc.read_schema(pa.py_buffer(text))
            yield key, unpack(body, schemas[schema_id])
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
