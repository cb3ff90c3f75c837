"""The tables of the SQLite record log, and how a connection to them is made.

A batch is found by one number: its partition in the upper bits, its offset in the lower. A range of
offsets of a partition is then a range of rows, without another index.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["connect", "create_tables", "key_of", "offset_of", "span_of"]

_OFFSET_BITS = 40

_TABLES = """
CREATE TABLE IF NOT EXISTS schemas (id INTEGER PRIMARY KEY, body BLOB NOT NULL UNIQUE);

-- The blobs are last, so that the other columns are read without them.
CREATE TABLE IF NOT EXISTS batches (
    key INTEGER PRIMARY KEY,
    schema_id INTEGER NOT NULL,
    model_version TEXT NOT NULL,
    arm TEXT NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    min_time INTEGER NOT NULL,
    max_time INTEGER NOT NULL,
    appended_at REAL NOT NULL,
    requests BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batches_version ON batches (model_version);
CREATE INDEX IF NOT EXISTS batches_time ON batches (max_time);

-- Which offsets were ever given: none is given twice, whatever retention deletes.
CREATE TABLE IF NOT EXISTS partitions (id INTEGER PRIMARY KEY, end_offset INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS cursors (
    consumer TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (consumer, partition)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS emitters (
    id TEXT PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    last_key INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    dropped INTEGER NOT NULL
) WITHOUT ROWID;

-- Rows below an emitter's `last_seq` that never came.
CREATE TABLE IF NOT EXISTS gaps (
    emitter TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (emitter, first)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS labels (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL,
    row INTEGER NOT NULL,
    label TEXT NOT NULL,
    time REAL NOT NULL,
    received_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS labels_row ON labels (request_id, row);

CREATE TABLE IF NOT EXISTS totals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    rows INTEGER NOT NULL, batches INTEGER NOT NULL, labels INTEGER NOT NULL, bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0, 0);
"""

#: A log of before there were partitions has one, whose keys are its offsets.
_FROM_OLD = """
ALTER TABLE batches RENAME COLUMN offset TO key;
ALTER TABLE emitters RENAME COLUMN last_offset TO last_key;
CREATE TABLE partitions (id INTEGER PRIMARY KEY, end_offset INTEGER NOT NULL);
INSERT INTO partitions
    SELECT 0, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'batches'), 0);
"""

#: Large enough that a batch takes few pages, small enough that a label's index entry dirties
#: little. Of a new file; another stays as it is.
_PAGE_BYTES = 16_384
#: How long a writer waits for another process's transaction, milliseconds.
_BUSY_MS = 20_000


def key_of(partition: int, offset: int) -> int:
    """The key of a place in the log."""
    return partition << _OFFSET_BITS | offset


def offset_of(key: int) -> int:
    """The offset, in its partition, of the batch with a key."""
    return key & ((1 << _OFFSET_BITS) - 1)


def span_of(partition: int) -> tuple[int, int]:
    """The smallest and the largest key of a partition."""
    return key_of(partition, 0), key_of(partition + 1, 0) - 1


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode; every commit is on disk when it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def create_tables(path: Path, *, partitions: int | None) -> int:
    """Make the file and its tables if they are missing; the number of its partitions."""
    connection = connect(path)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if not _columns(connection, "batches").isdisjoint({"offset"}):
            _run(connection, _FROM_OLD)
        _run(connection, _TABLES)
        (found,) = connection.execute("SELECT count(*) FROM partitions").fetchone()
        if not found:
            found = partitions or 1
            connection.executemany(
                "INSERT INTO partitions VALUES (?, 0)", [(number,) for number in range(found)]
            )
        connection.execute("COMMIT")
    finally:
        connection.close()
    if partitions not in (None, found):
        raise ValueError(
            f"{path} has {found} partition{'s' if found > 1 else ''}, not {partitions}: "
            "the number is fixed when a log is made"
        )
    return int(found)


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def _run(connection: sqlite3.Connection, script: str) -> None:
    """The statements of a script within the transaction, which `executescript` would commit."""
    text = ""
    for line in script.splitlines():
        text += f"{line}\n"
        if sqlite3.complete_statement(text):
            connection.execute(text)
            text = ""
