"""Appending to the SQLite log: appends that wait for each other share one commit, thus one fsync.

An emitter's high-water mark is stored in the transaction of its batch, with the rows below it that
never came: whatever is sent again after a lost acknowledgement is recognised row by row, in
whatever partition it is.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from coalmine.clock import Clock
from coalmine.records._batches import PackedBatch, pack
from coalmine.records._errors import LogError, LogUnavailableError
from coalmine.records._sqlite_gaps import fill_gaps, leave_gap
from coalmine.records._sqlite_schema import key_of, offset_of
from coalmine.records._sqlite_transaction import transaction, translated
from coalmine.records._types import BatchId, NewBatch

__all__ = ["Append", "Appender"]


@dataclass(slots=True)
class Append:
    """A batch to append, and what became of it."""

    new: NewBatch
    packed: PackedBatch
    partition: int
    result: int | LogError = 0
    """Its offset, once some thread has committed it; or why that could not be."""


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

    def append(self, mine: Sequence[Append]) -> list[int | LogError]:
        """Commit them together, and with what others wait to append; what became of each."""
        if not mine:
            return []
        with self._queue_lock:
            self._queue += mine
        with self._lock:
            if mine[-1].result == 0:  # else somebody who had the lock before committed them too
                with self._queue_lock:
                    group, self._queue = self._queue, []
                self._commit(group)
        return [one.result for one in mine]

    def _commit(self, group: list[Append]) -> None:
        known = dict(self._schema_ids)  # some may be rolled back
        try:
            with translated(), transaction(self._connection):
                offsets = _Group(self._connection, known, now=self._clock.time()).insert(group)
        except LogError as error:
            for one in group:
                one.result = error
        except BaseException:
            for one in group:  # who waits for the lock must not take it for done
                one.result = LogUnavailableError("appending broke off")
            raise
        else:
            self._schema_ids = known
            for one, offset in zip(group, offsets, strict=True):
                one.result = offset


@dataclass(slots=True)
class _Emitter:
    """What a group makes of an emitter's row."""

    last_seq: int
    last_key: int
    rows: int = 0
    """Appended by the group."""

    dropped: int = 0


class _Group:
    """Appends of one transaction: rows that several of them touch are written once."""

    def __init__(
        self, connection: sqlite3.Connection, schema_ids: dict[bytes, int], *, now: float
    ) -> None:
        self._connection = connection
        self._schema_ids = schema_ids
        self._now = now
        self._emitters: dict[str, _Emitter] = {}
        self._ends: dict[int, int] = {}
        self._rows: list[tuple[object, ...]] = []

    def insert(self, group: Sequence[Append]) -> list[int]:
        """Insert them all; the offset of each."""
        offsets = [offset_of(self._take(one)) for one in group]
        run = self._connection.executemany
        run(
            "INSERT INTO batches (key, schema_id, model_version, arm, rows, bytes, min_time,"
            " max_time, appended_at, requests, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._rows,
        )
        run(
            "INSERT INTO emitters (id, last_seq, last_key, rows, dropped) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET last_seq = excluded.last_seq,"
            " last_key = excluded.last_key, rows = rows + excluded.rows,"
            " dropped = max(dropped, excluded.dropped)",
            [
                (name, emitter.last_seq, emitter.last_key, emitter.rows, emitter.dropped)
                for name, emitter in self._emitters.items()
            ],
        )
        run(
            "UPDATE partitions SET end_offset = ? WHERE id = ?",
            [(end, partition) for partition, end in self._ends.items()],
        )
        self._connection.execute(
            "UPDATE totals SET rows = rows + ?, batches = batches + ?, bytes = bytes + ?",
            (
                sum(emitter.rows for emitter in self._emitters.values()),
                len(self._rows),
                sum(len(row[-1]) for row in self._rows if isinstance(row[-1], bytes)),
            ),
        )
        return offsets

    def _take(self, one: Append) -> int:
        """The key of its batch, or of its emitter's newest if all its rows are there already."""
        batch_id = one.new.batch_id
        emitter = self._emitter(batch_id.emitter)
        emitter.dropped = max(emitter.dropped, one.new.dropped)
        runs = self._new_rows(batch_id, emitter)
        if runs:
            packed = one.packed
            if runs != [(batch_id.first, batch_id.last)]:
                packed = pack(_part(one.new.batch, runs, first=batch_id.first))
            emitter.last_key = self._place(packed, one.partition)
            emitter.last_seq = max(emitter.last_seq, batch_id.last)
            emitter.rows += packed.rows
        return emitter.last_key

    def _new_rows(self, batch_id: BatchId, emitter: _Emitter) -> list[tuple[int, int]]:
        """Those of a batch that are not in the log, as first and last of each run."""
        name, first, last = batch_id
        runs: list[tuple[int, int]] = []
        if first <= emitter.last_seq:
            runs = fill_gaps(self._connection, name, first, min(last, emitter.last_seq))
        elif first > emitter.last_seq + 1:
            leave_gap(self._connection, name, emitter.last_seq + 1, first - 1)
        if last > emitter.last_seq:
            runs.append((max(first, emitter.last_seq + 1), last))
        return runs

    def _emitter(self, name: str) -> _Emitter:
        if name not in self._emitters:
            row = self._connection.execute(
                "SELECT last_seq, last_key FROM emitters WHERE id = ?", (name,)
            ).fetchone()
            self._emitters[name] = _Emitter(*(row or (0, 0)))
        return self._emitters[name]

    def _place(self, packed: PackedBatch, partition: int) -> int:
        if partition not in self._ends:
            (self._ends[partition],) = self._connection.execute(
                "SELECT end_offset FROM partitions WHERE id = ?", (partition,)
            ).fetchone()
        self._ends[partition] += 1
        key = key_of(partition, self._ends[partition])
        self._rows.append(
            (key, self._schema_id(packed.schema), packed.model_version, packed.arm, packed.rows,
             len(packed.body), packed.min_time, packed.max_time, self._now, packed.requests,
             packed.body)
        )  # fmt: skip
        return key

    def _schema_id(self, schema: bytes) -> int:
        if schema not in self._schema_ids:
            execute = self._connection.execute
            execute("INSERT OR IGNORE INTO schemas (body) VALUES (?)", (schema,))
            (found,) = execute("SELECT id FROM schemas WHERE body = ?", (schema,)).fetchone()
            self._schema_ids[schema] = int(found)
        return self._schema_ids[schema]


def _part(batch: pa.RecordBatch, runs: Sequence[tuple[int, int]], *, first: int) -> pa.RecordBatch:
    """The rows of a batch whose numbers are in `runs`; `first` is the number of its first."""
    pieces = [batch.slice(low - first, high - low + 1) for low, high in runs]
    return pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
