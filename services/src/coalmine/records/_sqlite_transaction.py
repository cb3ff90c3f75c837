"""Transactions of SQLite, and its errors as the log's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from coalmine.records._errors import LogFullError, LogUnavailableError

__all__ = ["transaction", "translated"]


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit what the block did, or nothing of it."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated() -> Iterator[None]:
    """SQLite's errors as `LogFullError` or `LogUnavailableError`."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":  # not every error has one
            raise LogFullError(str(error)) from error
        raise LogUnavailableError(str(error)) from error
