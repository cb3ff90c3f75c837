"""Totals by block of record time: requests, errors, latencies, labels, pairs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coalmine_monitors._rows import ERROR_STATUS, times
from coalmine_monitors._versions import batch_arm, batch_version
from coalmine_monitors.performance._join import Cell, Joined
from coalmine_monitors.performance._schema import Block, Pair

__all__ = [
    "LATENCY_EDGES_US",
    "MAX_AGE",
    "TABLES",
    "Traffic",
    "add_joined",
    "add_traffic",
    "first_block",
    "forget_blocks",
    "outcomes",
    "read_blocks",
    "read_pairs",
    "traffic",
]

#: 20 per decade, 100 us to 10 s.
LATENCY_EDGES_US: NDArray[np.float64] = np.round(100 * 10 ** (np.arange(101) / 20), 3)
#: Blocks are kept this long, in record time.
MAX_AGE = 7 * 86400.0

TABLES = """
CREATE TABLE IF NOT EXISTS blocks (
    block INTEGER, version TEXT, arm TEXT,
    requests INTEGER DEFAULT 0, errors INTEGER DEFAULT 0, latency BLOB,
    instances INTEGER DEFAULT 0, labelled INTEGER DEFAULT 0, correct INTEGER DEFAULT 0,
    PRIMARY KEY (block, version, arm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (
    block INTEGER, a_version TEXT, a_arm TEXT, b_version TEXT, b_arm TEXT,
    both_right INTEGER, only_a INTEGER, only_b INTEGER, both_wrong INTEGER,
    PRIMARY KEY (block, a_version, a_arm, b_version, b_arm)
) WITHOUT ROWID;
"""

#: Turned away for having too much to do: a record says how many were at once, as `batch_rows`.
_SHED = (429, 503)
_OUTCOMES = ((True, True), (True, False), (False, True), (False, False))


class Traffic(NamedTuple):
    """What a batch of records adds to one block."""

    requests: int
    errors: int
    instances: int
    latency: NDArray[np.int64]


def outcomes(batch: pa.RecordBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many requests each row of a batch stands for, and how many failed, [rows]."""
    status = batch.column("status").to_numpy()
    shed = np.maximum(batch.column("batch_rows").to_numpy().astype(np.int64), 1)
    requests = np.where(np.isin(status, _SHED), shed, 1)
    requests[batch.column("row").to_numpy() != 0] = 0
    return requests, np.where(status >= ERROR_STATUS, requests, 0)


def traffic(batch: pa.RecordBatch, *, block_s: float) -> dict[Cell, Traffic]:
    """Requests (rows numbered 0, and what was shed), errors and latencies of a batch, by block."""
    version, arm = batch_version(batch), batch_arm(batch)
    blocks = (times(batch) // block_s).astype(np.int64)
    counted, failed = outcomes(batch)
    first = counted > 0
    answered = batch.column("status").to_numpy() < ERROR_STATUS
    # "left": a latency equal to an edge is not slower than it.
    bins = np.searchsorted(LATENCY_EDGES_US, batch.column("latency_us").to_numpy(), side="left")
    found: dict[Cell, Traffic] = {}
    for block in np.unique(blocks):
        here = blocks == block
        found[Cell(int(block), version, arm)] = Traffic(
            requests=int(counted[here].sum()),
            errors=int(failed[here].sum()),
            instances=int((here & answered).sum()),
            latency=np.bincount(bins[here & first], minlength=LATENCY_EDGES_US.size + 1),
        )
    return found


def add_traffic(connection: sqlite3.Connection, found: Mapping[Cell, Traffic]) -> None:
    """Add to the totals."""
    for cell, part in found.items():
        row = connection.execute(
            "SELECT latency FROM blocks WHERE block = ? AND version = ? AND arm = ?", cell
        ).fetchone()
        latency = part.latency + _counts(None if row is None else row[0])
        connection.execute(
            "INSERT INTO blocks (block, version, arm, requests, errors, instances, latency)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " requests = requests + excluded.requests, errors = errors + excluded.errors,"
            " instances = instances + excluded.instances, latency = excluded.latency",
            (*cell, part.requests, part.errors, part.instances, latency.astype("<i4").tobytes()),
        )


def add_joined(connection: sqlite3.Connection, joined: Joined) -> None:
    """Add labels and pairs to the totals."""
    connection.executemany(
        "INSERT INTO blocks (block, version, arm, labelled, correct) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET labelled = labelled + excluded.labelled,"
        " correct = correct + excluded.correct",
        [(*cell, count, joined.correct[cell]) for cell, count in joined.labelled.items()],
    )
    connection.executemany(
        "INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " both_right = both_right + excluded.both_right, only_a = only_a + excluded.only_a,"
        " only_b = only_b + excluded.only_b, both_wrong = both_wrong + excluded.both_wrong",
        [
            (*cell, *(outcomes[outcome] for outcome in _OUTCOMES))
            for cell, outcomes in joined.pairs.items()
        ],
    )


def read_blocks(
    connection: sqlite3.Connection,
    *,
    since: float,
    until: float,
    block_s: float,
    version: str | None = None,
) -> list[Block]:
    """Blocks that start in [since, until), in order of time."""
    query = (
        "SELECT block, version, arm, requests, errors, instances, labelled, correct, latency"
        " FROM blocks WHERE block >= ? AND block < ? AND version = coalesce(?, version)"
        " ORDER BY block, version, arm"
    )
    bounds = (first_block(since, block_s), first_block(until, block_s))
    return [
        Block(
            time=block * block_s,
            version=of,
            arm=arm,
            requests=requests,
            errors=errors,
            instances=instances,
            labelled=labelled,
            correct=correct,
            latency_counts=tuple(_counts(latency).tolist()),
        )
        for block, of, arm, requests, errors, instances, labelled, correct, latency in (
            connection.execute(query, (*bounds, version))
        )
    ]


def read_pairs(
    connection: sqlite3.Connection, *, since: float, until: float, block_s: float
) -> list[Pair]:
    """Pairs of blocks that start in [since, until), in order of time."""
    query = "SELECT * FROM pairs WHERE block >= ? AND block < ? ORDER BY 1, 2, 3, 4, 5"
    bounds = (first_block(since, block_s), first_block(until, block_s))
    names = tuple(Pair.model_fields)
    rows: Iterable[tuple[int, ...]] = connection.execute(query, bounds)
    return [
        Pair.model_validate(dict(zip(names, (block * block_s, *rest), strict=True)))
        for block, *rest in rows
    ]


def forget_blocks(connection: sqlite3.Connection, *, newest: float, block_s: float) -> None:
    """Delete the totals of blocks that are too old to be asked for."""
    oldest = first_block(newest - MAX_AGE, block_s)
    connection.execute("DELETE FROM blocks WHERE block < ?", (oldest,))
    connection.execute("DELETE FROM pairs WHERE block < ?", (oldest,))


def first_block(time: float, block_s: float) -> int:
    """The first block that starts at `time` or later, within what SQLite can count."""
    # The start of a block, divided again, may come out a rounding error above its number.
    return int(np.ceil(np.clip(time / block_s - 1e-6, -(2**62), 2**62)))


def _counts(blob: bytes | None) -> NDArray[np.int64]:
    if blob is None:
        return np.zeros(LATENCY_EDGES_US.size + 1, dtype=np.int64)
    return np.frombuffer(blob, dtype="<i4").astype(np.int64)
