"""Appending to the SQLite log: appends that wait for each other share one commit, thus one fsync.

An emitter's high-water mark is stored in the transaction of its batch: whatever is sent again after
a lost acknowledgement is recognised row by row, in whatever partition it is.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from coalmine.clock import Clock
from coalmine.records._batches import PackedBatch, pack
from coalmine.records._errors import LogError
from coalmine.records._sqlite_schema import key_of, offset_of
from coalmine.records._sqlite_transaction import transaction, translated
from coalmine.records._types import BatchId

__all__ = ["Append", "Appender"]


@dataclass(slots=True)
class Append:
    """One call of `append`, and what became of it."""

    batch: pa.RecordBatch
    batch_id: BatchId
    packed: PackedBatch
    partition: int
    dropped: int
    offset: int = 0
    error: LogError | None = None

    @property
    def is_done(self) -> bool:
        """Whether some thread has committed it, or tried to."""
        return self.offset > 0 or self.error is not None


class Appender:
    """Appends through one connection, which belongs to whoever holds `lock`."""

    def __init__(
        self, connection: sqlite3.Connection, *, lock: threading.Lock, clock: Clock
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._clock = clock
        self._queue_lock = threading.Lock()
        self._queue: list[Append] = []
        self._schema_ids: dict[bytes, int] = {}

    def append(self, mine: Append) -> int:
        """Commit it, alone or with others; its offset."""
        with self._queue_lock:
            self._queue.append(mine)
        with self._lock:
            if not mine.is_done:  # else somebody who had the lock before committed it too
                with self._queue_lock:
                    group, self._queue = self._queue, []
                self._commit(group)
        if mine.error is not None:
            raise mine.error
        return mine.offset

    def _commit(self, group: list[Append]) -> None:
        offsets: list[int] = []
        try:
            with translated(), self._undoing(), transaction(self._connection):
                for one in group:
                    offsets.append(self._insert(one))
        except LogError as error:
            for one in group:
                one.error = error
        else:
            for one, offset in zip(group, offsets, strict=True):
                one.offset = offset

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._schema_ids.clear()  # some may have been rolled back
            raise

    def _insert(self, one: Append) -> int:
        emitter, first, last = one.batch_id
        row = self._connection.execute(
            "SELECT last_seq, last_key FROM emitters WHERE id = ?", (emitter,)
        ).fetchone()
        last_seq, key = (0, 0) if row is None else row
        packed = one.packed
        if first <= last_seq < last:
            tail = one.batch.slice(last_seq + 1 - first)
            packed = pack(tail, BatchId(emitter, last_seq + 1, last))
        if last > last_seq:
            key = self._insert_batch(packed, one.partition)
        self._connection.execute(
            "INSERT INTO emitters (id, last_seq, last_key, rows, dropped) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET last_seq = excluded.last_seq,"
            " last_key = excluded.last_key, rows = rows + excluded.rows,"
            " dropped = max(dropped, excluded.dropped)",
            (emitter, max(last, last_seq), key, max(0, last - max(last_seq, first - 1)),
             one.dropped),
        )  # fmt: skip
        return offset_of(key)

    def _insert_batch(self, packed: PackedBatch, partition: int) -> int:
        execute = self._connection.execute
        (offset,) = execute(
            "SELECT end_offset + 1 FROM partitions WHERE id = ?", (partition,)
        ).fetchone()
        execute("UPDATE partitions SET end_offset = ? WHERE id = ?", (offset, partition))
        key, size = key_of(partition, offset), len(packed.body)
        execute(
            "INSERT INTO batches (key, schema_id, model_version, arm, rows, bytes, min_time,"
            " max_time, appended_at, requests, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, self._schema_id(packed.schema), packed.model_version, packed.arm, packed.rows,
             size, packed.min_time, packed.max_time, self._clock.time(), packed.requests,
             packed.body),
        )  # fmt: skip
        execute(
            "UPDATE totals SET rows = rows + ?, batches = batches + 1, bytes = bytes + ?",
            (packed.rows, size),
        )
        return key

    def _schema_id(self, schema: bytes) -> int:
        known = self._schema_ids.get(schema)
        if known is None:
            execute = self._connection.execute
            execute("INSERT OR IGNORE INTO schemas (body) VALUES (?)", (schema,))
            (known,) = execute("SELECT id FROM schemas WHERE body = ?", (schema,)).fetchone()
            self._schema_ids[schema] = known
        return int(known)
