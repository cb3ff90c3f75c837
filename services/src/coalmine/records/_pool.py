"""Connections for readers: one thread at a time each, made when none is free."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coalmine.records._errors import LogUnavailableError

__all__ = ["Pool"]


class Pool:
    """Lends connections; those given back after `close` are closed."""

    def __init__(self, make: Callable[[], sqlite3.Connection]) -> None:
        self._make = make
        self._mutex = threading.Lock()
        self._free: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection of the caller's own, inside the block."""
        with self._mutex:
            if self._closed:
                raise LogUnavailableError("the log is closed")
            connection = self._free.pop() if self._free else None
        if connection is None:
            connection = self._make()
        try:
            yield connection
        finally:
            with self._mutex:
                keep = not self._closed
                if keep:
                    self._free.append(connection)
            if not keep:
                connection.close()

    def close(self) -> None:
        """Close what is free, and what is lent once it comes back."""
        with self._mutex:
            self._closed = True
            free, self._free = self._free, []
        for connection in free:
            connection.close()
