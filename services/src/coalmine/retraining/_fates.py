"""The table of triggers: what asked for a run, and what became of it.

A storm must not fill a disk: what is alike (source, name, version, fate, reason and run) within an
hour is one row with a count, and only the newest rows are kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, fields, replace

from coalmine.retraining._types import Trigger

_COLUMNS = tuple(field.name for field in fields(Trigger))
_NAMES = ", ".join(_COLUMNS)
#: What makes two triggers alike.
_ALIKE = ("source", "name", "model_version", "fate", "reason", "run")
_TOGETHER_SECONDS = 3600.0
_KEPT_ROWS = 20_000

_TABLE = """create table if not exists triggers (id integer primary key, identity text not null,
    source text not null, name text not null, model_version text not null, starts_at real,
    fate text not null, reason text not null, run text, count integer not null,
    first_at real not null, last_at real not null)"""


def prepare(cursor: sqlite3.Cursor) -> None:
    """Make the table; one of a first release, which counted by identity, is taken over."""
    found = cursor.execute("select sql from sqlite_master where name = 'triggers'").fetchone()
    if found is not None and "unique (identity" in found[0]:
        cursor.execute("alter table triggers rename to triggers_before")
        cursor.execute(_TABLE)
        cursor.execute(f"insert into triggers ({_NAMES}) select {_NAMES} from triggers_before")
        cursor.execute("update triggers set source = 'cli' where source = 'manual'")
        cursor.execute("drop table triggers_before")
    cursor.execute(_TABLE)
    cursor.execute("create index if not exists triggers_by_time on triggers (last_at)")
    cursor.execute("create index if not exists triggers_by_run on triggers (run)")


def note(cursor: sqlite3.Cursor, triggers: Iterable[Trigger]) -> None:
    """Record triggers, or count them to a row that is alike."""
    together: dict[tuple[object, ...], Trigger] = {}
    for trigger in triggers:
        key = tuple(getattr(trigger, name) for name in _ALIKE)
        first = together.get(key, replace(trigger, count=0))
        together[key] = replace(first, count=first.count + trigger.count, last_at=trigger.last_at)
    for trigger in together.values():
        _add(cursor, trigger)
    if together:
        cursor.execute(
            "delete from triggers where id <= (select max(id) from triggers) - ?", (_KEPT_ROWS,)
        )


def suppress(cursor: sqlite3.Cursor, *, run: str, reason: str, now: float) -> None:
    """The triggers of a run that is not started are suppressed, for one reason."""
    cursor.execute(
        "update triggers set fate = 'suppressed', reason = ?, last_at = ?"
        " where run = ? and fate in ('accepted', 'merged')",
        (reason, now, run),
    )


def find(
    cursor: sqlite3.Cursor,
    *,
    fate: str | None = None,
    source: str | None = None,
    run: str | None = None,
    since: float | None = None,
    limit: int = -1,
) -> list[Trigger]:
    """Triggers that are so, newest first."""
    given = {"fate = ?": fate, "source = ?": source, "run = ?": run, "last_at >= ?": since}
    wanted = {text: value for text, value in given.items() if value is not None}
    where = f"where {' and '.join(wanted)}" if wanted else ""
    found = cursor.execute(
        f"select {_NAMES} from triggers {where} order by last_at desc, id desc limit ?",
        (*wanted.values(), limit),
    ).fetchall()
    return [Trigger(*row) for row in found]


def _add(cursor: sqlite3.Cursor, trigger: Trigger) -> None:
    alike = " and ".join(f"{name} is ?" for name in _ALIKE)
    counted = cursor.execute(
        f"update triggers set count = count + ?, last_at = max(last_at, ?) where id ="
        f" (select id from triggers where last_at > ? and {alike} and abs(first_at - ?) < ?"
        "  order by id desc limit 1)",
        (
            trigger.count,
            trigger.last_at,
            trigger.first_at - _TOGETHER_SECONDS,
            *(getattr(trigger, name) for name in _ALIKE),
            trigger.first_at,
            _TOGETHER_SECONDS,
        ),
    )
    if counted.rowcount == 0:
        places = ", ".join("?" * len(_COLUMNS))
        cursor.execute(f"insert into triggers ({_NAMES}) values ({places})", astuple(trigger))
