"""What the sums of labelled rows say of stretches of time, and of one arm against another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coalmine.arms import Arm
from coalmine_monitors.performance._blocks import first_block
from coalmine_monitors.performance._intervals import ALPHA, Level
from coalmine_monitors.performance._measures import Measures, measure, spread_of
from coalmine_monitors.performance._schema import ArmDifference, Measured
from coalmine_monitors.performance._scores import ScoreCell, Scores, known_tasks, read_scores
from coalmine_monitors.performance._sums import layout_of
from coalmine_monitors.performance._tasks import Task

__all__ = ["Scoring", "arm_differences", "read_scoring", "segments_of"]

Floats = NDArray[np.float64]


class Part(NamedTuple):
    """All rows of some blocks of one arm."""

    instances: int
    sums: Floats


@dataclass(frozen=True)
class Scoring:
    """The labelled rows of one version, of all its traffic or of one segment."""

    task: Task
    scores: Mapping[ScoreCell, Scores]
    segment: str = ""

    def of(self, cells: Iterable[ScoreCell]) -> Part:
        """The rows of some cells, of this segment."""
        instances, sums = 0, np.zeros(layout_of(self.task).width)
        for cell in cells:
            found = self.scores.get(cell._replace(segment=self.segment))
            if found is not None:
                instances += found.instances
                if found.sums.size:
                    sums = sums + found.sums
        return Part(instances, sums)

    def effect(self, arm: str) -> float:
        """How much more an arm's blocks differ than independent rows would make them.

        Each is compared with the next: what changes for good is no likeness of neighbours. What
        rows differ by is taken from both together, since a block may be a single row.
        """
        cells = sorted(
            cell for cell in self.scores if (cell.arm, cell.segment) == (arm, self.segment)
        )
        known = [self.scores[cell].sums for cell in cells if self.scores[cell].sums.size]
        known = [sums for sums in known if sums[0] > 0]
        if len(known) < 2:
            return 1.0
        rows, total, squares = spread_of(self.task, np.array(known))
        inside = squares - total**2 / rows
        mean = total / rows
        apart = (mean[1:] - mean[:-1]) ** 2 / (1 / rows[1:] + 1 / rows[:-1])
        both = (inside[1:] + inside[:-1] + apart).sum() / (rows[1:] + rows[:-1] - 1).sum()
        return float(max(apart.mean() / max(both, 1e-9), 1.0))

    def measure(self, part: Part, *, level: Level) -> Measures:
        """The metrics of some rows."""
        return measure(self.task, part.sums, level=level)


def read_scoring(
    connection: sqlite3.Connection,
    *,
    version: str,
    since: float,
    until: float,
    block_s: float,
    segment: str | None = "",
) -> Scoring | None:
    """Of the blocks of a version that start in [since, until); None if its task is not known."""
    task = known_tasks(connection).get(version)
    if task is None:
        return None
    scores = read_scores(
        connection, version=version, since=since, until=until, block_s=block_s, segment=segment
    )
    return Scoring(task, scores, segment or "")


def segments_of(connection: sqlite3.Connection, *, version: str) -> tuple[str, ...]:
    """The segments that a version has rows of."""
    query = "SELECT DISTINCT segment FROM scores WHERE version = ? AND segment != '' ORDER BY 1"
    return tuple(segment for (segment,) in connection.execute(query, (version,)))


def arm_differences(
    connection: sqlite3.Connection,
    *,
    stable: str,
    since: float,
    until: float,
    block_s: float,
    segment: str = "",
) -> tuple[ArmDifference, ...]:
    """Every other arm's metrics less those of the stable arm, of the blocks from its first on.

    Of an arm that several versions had, the one with the newest labelled rows.
    """
    query = (
        "SELECT version, arm, min(block), max(block) FROM scores WHERE sums IS NOT NULL"
        " AND segment = ? AND block >= ? AND block < ? GROUP BY version, arm ORDER BY max(block)"
    )
    bounds = (first_block(since, block_s), first_block(until, block_s))
    spans = {
        arm: (version, first, last)
        for version, arm, first, last in connection.execute(query, (segment, *bounds))
        if version == stable or arm != Arm.STABLE
    }
    if Arm.STABLE not in spans:
        return ()
    _, own_first, own_last = spans.pop(Arm.STABLE)
    found: list[ArmDifference] = []
    for arm, (version, first, last) in sorted(spans.items()):
        start, end = max(first, own_first), min(last, own_last) + 1
        if start >= end:
            continue
        window = (start * block_s, end * block_s)
        pair = [
            _measured(connection, of, at, window=window, block_s=block_s, segment=segment)
            for of, at in ((stable, Arm.STABLE), (version, arm))
        ]
        (own, own_rows), (other, rows) = pair
        found += [
            ArmDifference(
                arm=arm,
                version=version,
                metric=name,
                since=window[0],
                until=window[1],
                labelled=rows,
                labelled_stable=own_rows,
                **_difference(other[name], own[name]),
            )
            for name in other
            if name in own
        ]
    return tuple(found)


def _measured(
    connection: sqlite3.Connection,
    version: str,
    arm: str,
    *,
    window: tuple[float, float],
    block_s: float,
    segment: str,
) -> tuple[Mapping[str, Measured], int]:
    scoring = read_scoring(
        connection,
        version=version,
        since=window[0],
        until=window[1],
        block_s=block_s,
        segment=segment,
    )
    if scoring is None:
        return {}, 0
    part = scoring.of(cell for cell in scoring.scores if cell.arm == arm)
    level = Level(effect=scoring.effect(arm), alpha=ALPHA / 2)
    return scoring.measure(part, level=level).metrics, int(part.sums[0])


def _difference(other: Measured, own: Measured) -> dict[str, float | None]:
    known = None not in (other.lower, other.upper, own.lower, own.upper)
    return {
        "value": other.value,
        "stable": own.value,
        "difference": other.value - own.value,
        "lower": (other.lower or 0.0) - (own.upper or 0.0) if known else None,
        "upper": (other.upper or 0.0) - (own.lower or 0.0) if known else None,
    }
