"""A monitor's memory: cursors, detector state, incidents and history, in one SQLite file.

Everything that one step changes is committed in one transaction together with the cursors, so that
a monitor killed at any moment has either done a step or not. Readers use connections of their own.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from coalmine.incidents import Incident
from coalmine_monitors._errors import StateMovedError

__all__ = ["Saved", "StateStore", "put_history", "put_incidents", "save"]

#: Judged windows, and incidents, that are kept to be looked at.
HISTORY = 5_000
INCIDENTS = 1_000

_TABLES = """
CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), cursors TEXT, body TEXT);
CREATE TABLE IF NOT EXISTS incidents (id TEXT PRIMARY KEY, opened_at REAL, open INTEGER, body TEXT);
CREATE TABLE IF NOT EXISTS history (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, version TEXT, end REAL, body TEXT
);
"""
_BUSY_SECONDS = 10.0
#: Raised whenever a monitor's state changes its form.
_FORMAT = 8
#: What is shown rather than computed with: it outlives a change of form.
_SHOWN = ("incidents", "history")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """What a monitor knows after a step: where it is in the log, and what it made of it so far."""

    cursors: Mapping[str, int] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


class StateStore:
    """The file. `tables` are further tables, made if missing."""

    def __init__(self, path: Path, *, tables: str = "") -> None:
        self._path = path
        self._writer: sqlite3.Connection | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            _drop_outdated(connection, path)
            connection.executescript(_TABLES + tables + f"PRAGMA user_version = {_FORMAT};")

    def _connect(self) -> sqlite3.Connection:
        # The worker writes with one connection, which another thread closes in the end.
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        # A process that dies loses nothing; a machine that dies loses the last steps, whole ones,
        # and they are done again from the log.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries that see one consistent state."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield connection

    def load(self) -> Saved:
        """The state after the last committed step."""
        with self.reading() as connection:
            return _load(connection)

    def body(self, connection: sqlite3.Connection) -> Mapping[str, Any]:
        """The state's body as `connection`, from `reading`, sees it."""
        return _load(connection).body

    @contextmanager
    def step(self, before: Saved) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed when the block ends; `save` the state after it inside.

        Raises StateMovedError when the state is not `before` any more: two processes that share a
        file can then not count a batch twice.
        """
        # Kept open: whoever closes a file's last connection has to move the log into the file.
        connection = self._writer = self._writer or self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            if dict(_load(connection).cursors) != dict(before.cursors):
                raise StateMovedError("another process has advanced this monitor's state")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise

    def close(self) -> None:
        """Release the file; a further step opens it again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def incidents(
        self, *, only_open: bool = False, since: float = -math.inf, until: float = math.inf
    ) -> list[Incident]:
        """Incidents that lasted at some time in [since, until), newest first."""
        query = (
            "SELECT body FROM incidents WHERE open >= ? AND opened_at < ?"
            " ORDER BY opened_at DESC, id"
        )
        with self.reading() as connection:
            rows = connection.execute(query, (int(only_open), until)).fetchall()
        found = (Incident.model_validate_json(body) for (body,) in rows)
        return [item for item in found if item.closed_at is None or item.closed_at >= since]

    def history(
        self,
        *,
        limit: int,
        version: str | None = None,
        since: float = -math.inf,
        until: float = math.inf,
    ) -> list[dict[str, Any]]:
        """Judged windows that ended in [since, until), oldest first, the newest `limit` of them."""
        query = (
            "SELECT body FROM history WHERE version = coalesce(?, version)"
            " AND end >= ? AND end < ? ORDER BY seq DESC LIMIT ?"
        )
        with self.reading() as connection:
            rows = connection.execute(query, (version, since, until, limit)).fetchall()
        return [json.loads(body) for (body,) in reversed(rows)]


def save(connection: sqlite3.Connection, after: Saved) -> None:
    """Make `after` the state that `load` returns."""
    connection.execute(
        "INSERT OR REPLACE INTO state (id, cursors, body) VALUES (1, ?, ?)",
        (json.dumps(dict(after.cursors)), json.dumps(dict(after.body))),
    )


def put_incidents(connection: sqlite3.Connection, incidents: Iterable[Incident]) -> None:
    """Store incidents, replacing what was known of them."""
    connection.executemany(
        "INSERT OR REPLACE INTO incidents (id, opened_at, open, body) VALUES (?, ?, ?, ?)",
        [
            (item.id, item.opened_at, int(item.closed_at is None), item.model_dump_json())
            for item in incidents
        ],
    )
    connection.execute(
        "DELETE FROM incidents WHERE id NOT IN"
        " (SELECT id FROM incidents ORDER BY open DESC, opened_at DESC LIMIT ?)",
        (INCIDENTS,),
    )


def put_history(connection: sqlite3.Connection, windows: Iterable[Mapping[str, Any]]) -> None:
    """Append judged windows, and forget the oldest beyond `HISTORY`."""
    connection.executemany(
        "INSERT INTO history (version, end, body) VALUES (?, ?, ?)",
        [(window["version"], window["end"], _text(window)) for window in windows],
    )
    connection.execute(
        "DELETE FROM history WHERE seq <= (SELECT max(seq) FROM history) - ?", (HISTORY,)
    )


def _text(window: Mapping[str, Any]) -> str:
    # Ten times as fast as `json`, and a window has hundreds of numbers.
    return orjson.dumps(dict(window)).decode()


def _drop_outdated(connection: sqlite3.Connection, path: Path) -> None:
    """Forget the state that another version of the monitor left, so that the log is read again."""
    (form,) = connection.execute("PRAGMA user_version").fetchone()
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_")
    ]
    if form == _FORMAT or "state" not in tables:
        return
    _log.warning("%s is of another version: the log is read again from its beginning", path)
    connection.execute("BEGIN IMMEDIATE")
    for name in tables:
        if name not in _SHOWN:
            connection.execute(f'DROP TABLE "{name}"')
    connection.execute("COMMIT")


def _load(connection: sqlite3.Connection) -> Saved:
    row = connection.execute("SELECT cursors, body FROM state").fetchone()
    return Saved() if row is None else Saved(json.loads(row[0]), json.loads(row[1]))
