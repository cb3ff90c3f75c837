"""Totals by block of callers: how much the callers of an arm differ, for what judges it by them.

A rollout that sticks callers to arms deals out callers. Their requests and errors are kept by
minutes of record time, so that those of one rollout can be added up, and given as sums over the
callers: all that a variance between them takes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coalmine.records import CALLER_NONE, CALLER_UNKNOWN
from coalmine_monitors._rows import times
from coalmine_monitors._versions import batch_arm, batch_version
from coalmine_monitors.performance._blocks import first_block, outcomes
from coalmine_monitors.performance._schema import Callers

__all__ = ["TABLES", "add_callers", "forget_callers", "read_callers"]

#: Seconds of a slot.
_SLOT = 60.0
#: Slots are kept this long, in record time, and so many rows at most; the oldest go first.
_MAX_AGE = 2 * 86400.0
_MAX_ROWS = 2_000_000

TABLES = """
CREATE TABLE IF NOT EXISTS callers (
    slot INTEGER, version TEXT, arm TEXT, caller INTEGER, requests INTEGER, errors INTEGER,
    PRIMARY KEY (slot, version, arm, caller)
) WITHOUT ROWID;
"""


def add_callers(connection: sqlite3.Connection, batch: pa.RecordBatch) -> None:
    """Add the requests of a batch to the totals of their callers."""
    requests, failed = outcomes(batch)
    slots = (times(batch) // _SLOT).astype(np.int64)
    blocks = np.full(batch.num_rows, CALLER_UNKNOWN, np.int64)
    if "caller_block" in batch.schema.names:
        known = pc.fill_null(batch.column("caller_block"), CALLER_UNKNOWN)
        blocks = np.clip(known.to_numpy().astype(np.int64), CALLER_UNKNOWN, None)
    count: Counter[tuple[int, int]] = Counter()
    wrong: Counter[tuple[int, int]] = Counter()
    here = requests > 0
    for slot, block, number, bad in zip(
        slots[here].tolist(), blocks[here].tolist(), requests[here].tolist(), failed[here].tolist(),
        strict=True,
    ):  # fmt: skip
        count[slot, block] += number
        wrong[slot, block] += bad
    version, arm = batch_version(batch), batch_arm(batch)
    connection.executemany(
        "INSERT INTO callers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " requests = requests + excluded.requests, errors = errors + excluded.errors",
        [
            (slot, version, arm, block, number, wrong[slot, block])
            for (slot, block), number in count.items()
        ],
    )


def read_callers(connection: sqlite3.Connection, *, since: float, until: float) -> list[Callers]:
    """The callers of each (version, arm) since then, to a minute; none where some are unknown.

    A request that said no caller is one of its own.
    """
    query = f"""
        SELECT version, arm, sum(k), sum(n), sum(e), sum(nn), sum(ne), sum(ee) FROM (
            SELECT version, arm, caller, 1 AS k, sum(requests) AS n, sum(errors) AS e,
                   sum(requests) * sum(requests) AS nn, sum(requests) * sum(errors) AS ne,
                   sum(errors) * sum(errors) AS ee
            FROM callers WHERE slot >= :first AND slot < :end AND caller > {CALLER_NONE}
            GROUP BY version, arm, caller
            UNION ALL
            SELECT version, arm, caller, sum(requests), sum(requests), sum(errors),
                   sum(requests), sum(errors), sum(errors)
            FROM callers WHERE slot >= :first AND slot < :end AND caller <= {CALLER_NONE}
            GROUP BY version, arm, caller
        ) GROUP BY version, arm HAVING min(caller) > {CALLER_UNKNOWN} ORDER BY version, arm"""
    bounds = {"first": first_block(since - _SLOT, _SLOT), "end": first_block(until, _SLOT)}
    names = tuple(Callers.model_fields)
    return [
        Callers.model_validate(dict(zip(names, row, strict=True)))
        for row in connection.execute(query, bounds)
    ]


def forget_callers(connection: sqlite3.Connection, *, newest: float) -> None:
    """Delete the totals that are too old to be asked for, or too many."""
    connection.execute("DELETE FROM callers WHERE slot < ?", (int((newest - _MAX_AGE) // _SLOT),))
    connection.execute(
        "DELETE FROM callers WHERE slot <="
        " (SELECT slot FROM callers ORDER BY slot DESC LIMIT 1 OFFSET ?)",
        (_MAX_ROWS,),
    )
