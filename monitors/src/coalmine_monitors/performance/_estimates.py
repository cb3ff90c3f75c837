"""What to expect of the rows of each block of record time, added up in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from coalmine_monitors._rows import answered, times
from coalmine_monitors._versions import batch_arm, batch_version
from coalmine_monitors.performance._blocks import MAX_AGE, first_block
from coalmine_monitors.performance._check import EstimateCheck
from coalmine_monitors.performance._estimate import Calibration, Estimate, Expected
from coalmine_monitors.performance._join import Cell
from coalmine_monitors.performance._schema import Block

__all__ = ["TABLES", "Estimates", "add_expected", "forget_expected", "read_expected"]

TABLES = """
CREATE TABLE IF NOT EXISTS expected (
    block INTEGER, version TEXT, arm TEXT, instances INTEGER, right REAL, variance REAL,
    PRIMARY KEY (block, version, arm)
) WITHOUT ROWID;
"""


def add_expected(
    connection: sqlite3.Connection,
    batch: pa.RecordBatch,
    *,
    calibration: Calibration,
    block_s: float,
) -> None:
    """Add the answers of a batch to their blocks."""
    rows = answered(batch)
    chances = calibration.chances(rows)
    blocks = (times(rows) // block_s).astype(np.int64)
    version, arm = batch_version(batch), batch_arm(batch)
    for block in np.unique(blocks):
        here = chances[(blocks == block) & np.isfinite(chances)]
        connection.execute(
            "INSERT INTO expected VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " instances = instances + excluded.instances, right = right + excluded.right,"
            " variance = variance + excluded.variance",
            (
                int(block),
                version,
                arm,
                len(here),
                float(here.sum()),
                float((here * (1 - here)).sum()),
            ),
        )


def read_expected(
    connection: sqlite3.Connection, *, version: str, since: float, block_s: float
) -> dict[Cell, Expected]:
    """Of the blocks of a version that start at `since` or later."""
    query = (
        "SELECT block, version, arm, instances, right, variance FROM expected"
        " WHERE version = ? AND block >= ?"
    )
    rows = connection.execute(query, (version, first_block(since, block_s)))
    return {
        Cell(block, of, arm): Expected(instances, right, variance)
        for block, of, arm, instances, right, variance in rows
    }


def forget_expected(connection: sqlite3.Connection, *, newest: float, block_s: float) -> None:
    """Delete what was expected of blocks that are too old to be asked for."""
    oldest = first_block(newest - MAX_AGE, block_s)
    connection.execute("DELETE FROM expected WHERE block < ?", (oldest,))


class Estimates:
    """What there is to say of the accuracy of some blocks without their labels."""

    def __init__(
        self,
        expected: Mapping[Cell, Expected] = MappingProxyType({}),
        *,
        calibration: Calibration | None = None,
        check: EstimateCheck | None = None,
    ) -> None:
        self._expected = expected
        self._calibration = calibration
        self.valid = None if check is None else check.valid
        """Whether the labels that came agree with the estimates; None without estimates."""

    def of(self, blocks: Iterable[Block], *, block_s: float) -> Estimate | None:
        """The accuracy to expect of some blocks of the version; None if nothing is."""
        if self._calibration is None:
            return None
        total = Expected()
        for block in blocks:
            cell = Cell(round(block.time / block_s), block.version, block.arm)
            total = total.plus(self._expected.get(cell, Expected()))
        return self._calibration.estimate(total)
