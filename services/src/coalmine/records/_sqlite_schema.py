"""The tables of the SQLite record log, and how a connection to them is made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["connect", "create_tables"]

_TABLES = """
CREATE TABLE IF NOT EXISTS schemas (id INTEGER PRIMARY KEY, body BLOB NOT NULL UNIQUE);

-- AUTOINCREMENT: an offset is never given twice, whatever retention deletes. The blobs are last, so
-- that the other columns are read without them.
CREATE TABLE IF NOT EXISTS batches (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
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

CREATE TABLE IF NOT EXISTS emitters (
    id TEXT PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    dropped INTEGER NOT NULL
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

#: How long a writer waits for another process's transaction, milliseconds.
_BUSY_MS = 20_000


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode; every commit is on disk when it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def create_tables(path: Path) -> None:
    """Make the file and its tables if they are missing."""
    connection = connect(path)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    finally:
        connection.close()
