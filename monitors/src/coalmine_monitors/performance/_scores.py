"""The sums of labelled rows by block, arm and segment, in SQLite."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coalmine_monitors.performance._blocks import MAX_AGE, first_block
from coalmine_monitors.performance._join import Answer, Joined, JoinedRow
from coalmine_monitors.performance._sums import ClassLayout, layout_of
from coalmine_monitors.performance._tasks import Task

__all__ = [
    "SEPARATOR",
    "TABLES",
    "ScoreCell",
    "Scores",
    "add_instances",
    "add_scores",
    "forget_scores",
    "known_tasks",
    "put_tasks",
    "read_scores",
]

TABLES = """
CREATE TABLE IF NOT EXISTS scores (
    version TEXT, block INTEGER, arm TEXT, segment TEXT, instances INTEGER DEFAULT 0, sums BLOB,
    PRIMARY KEY (version, block, arm, segment)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    version TEXT PRIMARY KEY, kind TEXT, classes TEXT, shift REAL
) WITHOUT ROWID;
"""
#: Between the segments of a row.
SEPARATOR = "\n"
#: Rows that are added up at a time.
_PART = 500

Floats = NDArray[np.float64]


class ScoreCell(NamedTuple):
    """What rows are added up by; the segment of all rows is empty."""

    block: int
    version: str
    arm: str
    segment: str = ""


class Scores(NamedTuple):
    """The sums of one cell."""

    instances: int
    sums: Floats


def put_tasks(connection: sqlite3.Connection, tasks: Mapping[str, Task]) -> None:
    """Remember what the answers of versions are; what is known stays."""
    connection.executemany(
        "INSERT OR IGNORE INTO tasks VALUES (?, ?, ?, ?)",
        [
            (version, task.kind, json.dumps(task.classes), task.shift)
            for version, task in tasks.items()
        ],
    )


def known_tasks(connection: sqlite3.Connection) -> dict[str, Task]:
    """By version."""
    return {
        version: Task(kind, tuple(json.loads(classes)), shift)
        for version, kind, classes, shift in connection.execute("SELECT * FROM tasks")
    }


def add_instances(
    connection: sqlite3.Connection, answers: Iterable[Answer], *, block_s: float
) -> None:
    """Count answers, all together and by segment."""
    found = Counter(
        ScoreCell(int(answer.time // block_s), answer.version, answer.arm, segment)
        for answer in answers
        for segment in _segments(answer.segments)
    )
    connection.executemany(
        "INSERT INTO scores (block, version, arm, segment, instances) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET instances = instances + excluded.instances",
        [(*cell, count) for cell, count in found.items()],
    )


def add_scores(connection: sqlite3.Connection, joined: Joined, *, block_s: float) -> None:
    """Add labelled rows to their sums, and take back what they added with another label."""
    tasks = known_tasks(connection)
    rows: dict[str, list[tuple[JoinedRow, int]]] = defaultdict(list)
    for found, sign in ((joined.before, -1), (joined.after, 1)):
        for row in found:
            if row.version in tasks:
                rows[row.version].append((row, sign))
    for version, of in rows.items():
        # Neighbours in time share their cells; in parts, so that many cells need little memory.
        of.sort(key=lambda item: item[0].time)
        for start in range(0, len(of), _PART):
            part = of[start : start + _PART]
            for cell, sums in _summed(tasks[version], part, block_s=block_s).items():
                _add(connection, cell, sums)


def _summed(
    task: Task, rows: Sequence[tuple[JoinedRow, int]], *, block_s: float
) -> dict[ScoreCell, Floats]:
    layout = layout_of(task)
    if task.kind == "regression":
        rows = [(row, sign) for row, sign in rows if _number(row.label) is not None]
    cells: dict[ScoreCell, int] = {}
    places: list[int] = []
    chosen: list[int] = []
    for index, (row, _) in enumerate(rows):
        for segment in _segments(row.segments):
            cell = ScoreCell(int(row.time // block_s), row.version, row.arm, segment)
            places.append(cells.setdefault(cell, len(cells)))
            chosen.append(index)
    sums = np.zeros((len(cells), layout.width))
    if not cells:
        return {}
    where, take = np.array(places), np.array(chosen)
    sign = np.array([sign for _, sign in rows], dtype=np.float64)[take]
    lag = np.array([max(row.label_time - row.time, 0.0) for row, _ in rows])[take]
    if isinstance(layout, ClassLayout):
        empty = np.full(layout.classes, np.nan, dtype=np.float32).tobytes()
        said = b"".join(row.said or empty for row, _ in rows)
        layout.add(
            sums,
            where,
            answer=np.array([row.klass for row, _ in rows])[take],
            truth=np.array([task.class_of(row.label) for row, _ in rows])[take],
            said=np.frombuffer(said, dtype=np.float32).reshape(len(rows), -1)[take].astype(float),
            lag=lag,
            sign=sign,
        )
    else:
        layout.add(
            sums,
            where,
            answer=np.array([row.value for row, _ in rows])[take],
            truth=np.array([_number(row.label) for row, _ in rows])[take],
            lag=lag,
            sign=sign,
        )
    return {cell: sums[place] for cell, place in cells.items()}


def _add(connection: sqlite3.Connection, cell: ScoreCell, sums: Floats) -> None:
    found = connection.execute(
        "SELECT sums FROM scores WHERE block = ? AND version = ? AND arm = ? AND segment = ?", cell
    ).fetchone()
    if found is not None and found[0] is not None:
        sums = sums + _unpacked(found[0])
    connection.execute(
        "INSERT INTO scores (block, version, arm, segment, sums) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET sums = excluded.sums",
        # Most are 0, and the rest small whole numbers.
        (*cell, zlib.compress(sums.astype("<f8").tobytes(), level=1)),
    )


def read_scores(
    connection: sqlite3.Connection,
    *,
    version: str,
    since: float,
    until: float,
    block_s: float,
    segment: str | None = "",
) -> dict[ScoreCell, Scores]:
    """Of the blocks of a version that start in [since, until); of all segments with None."""
    query = (
        "SELECT block, version, arm, segment, instances, sums FROM scores WHERE version = ?"
        " AND block >= ? AND block < ? AND segment = coalesce(?, segment) ORDER BY block"
    )
    bounds = (first_block(since, block_s), first_block(until, block_s))
    return {
        ScoreCell(block, of, arm, name): Scores(
            instances, np.empty(0) if sums is None else _unpacked(sums)
        )
        for block, of, arm, name, instances, sums in connection.execute(
            query, (version, *bounds, segment)
        )
    }


def forget_scores(connection: sqlite3.Connection, *, newest: float, block_s: float) -> None:
    """Delete the sums of blocks that are too old to be asked for."""
    oldest = first_block(newest - MAX_AGE, block_s)
    connection.execute("DELETE FROM scores WHERE block < ?", (oldest,))


def _unpacked(blob: bytes) -> Floats:
    return np.frombuffer(zlib.decompress(blob), dtype="<f8")


def _segments(text: str) -> list[str]:
    return ["", *text.split(SEPARATOR)] if text else [""]


def _number(label: str) -> float | None:
    """The number that a label says; None if it says none."""
    try:
        number = float(label)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
