"""What production has seen since an onset, read from the record log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coalmine.arms import Arm
from coalmine.retraining._errors import NotEnoughData

if TYPE_CHECKING:
    import pyarrow as pa

    from coalmine.records import RecordLog

#: The shadow's rows answer the same requests as stable's: they would count twice.
_ARMS = (Arm.STABLE.value, Arm.CANARY.value)
_READ_ROWS = 20_000
_KEY = ["request_id", "row"]


@dataclass(frozen=True, slots=True)
class Window:
    """Records of one model version, by record time in [since, until), seconds since the epoch."""

    version: str
    since: float
    until: float
    labels: int | None = None
    """Offset of the newest label that counts; None: of all that are there."""


def recent_rows(
    log: RecordLog, window: Window, *, features: tuple[str, ...], limit: int
) -> pa.Table:
    """The newest `limit` rows of a window that a model answered, labelled or not yet, by time.

    Columns: the features (float32), and `true_label` (null where unknown), `time` (seconds since
    the epoch), `group` (the request). A row that was recorded twice, as a retried request may be,
    is there once.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [*_KEY, "time", *features]
    parts = [pa.Table.from_batches([batch]).select(columns) for batch in _batches(log, window)]
    if not parts:
        raise NotEnoughData(f"version {window.version} has answered nothing since the onset")
    rows = _last_of_each(pa.concat_tables(parts, promote_options="permissive"))
    rows = rows.join(_labels(log, window), _KEY, join_type="left outer")
    rows = rows.sort_by([("time", "ascending"), *((key, "ascending") for key in _KEY)])
    rows = rows.slice(max(0, rows.num_rows - limit)).combine_chunks()
    seconds = pc.divide(pc.cast(pc.cast(rows.column("time"), pa.int64()), pa.float64()), 1e6)
    return pa.table(
        {
            **{name: pc.cast(rows.column(name), pa.float32(), safe=False) for name in features},
            "true_label": rows.column("true_label"),
            "time": seconds,
            "group": rows.column("request_id"),
        }
    )


def count_rows(log: RecordLog, window: Window) -> int:
    """Rows of the window that a model answered."""
    return sum(batch.num_rows for batch in _batches(log, window))


def count_labelled(log: RecordLog, window: Window) -> int:
    """Rows of the window whose label has come."""
    return int(_labels(log, window).num_rows)


def _labels(log: RecordLog, window: Window) -> pa.Table:
    table = log.labelled(
        window.version, window.since, window.until, arms=_ARMS, labels_up_to=window.labels
    )
    return _last_of_each(table.select([*_KEY, "true_label"]))


def _last_of_each(table: pa.Table) -> pa.Table:
    """Each row of each request once."""
    import pyarrow as pa

    numbered = table.append_column("place", pa.array(np.arange(table.num_rows)))
    last = numbered.group_by(_KEY).aggregate([("place", "max")]).column("place_max")
    return table.take(np.sort(last.to_numpy()))


def _batches(log: RecordLog, window: Window) -> Iterator[pa.RecordBatch]:
    """The batches of a window, only with its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    since, until = (
        pa.scalar(round(edge * 1e6), pa.timestamp("us", tz="UTC"))
        for edge in (window.since, window.until)
    )
    for batch in _since(log, window):
        times = batch.column("time")
        kept = pc.and_(pc.greater_equal(times, since), pc.less(times, until))
        kept = pc.and_(kept, pc.equal(batch.column("status"), 200))
        kept = pc.and_(kept, pc.is_in(batch.column("arm"), pa.array(_ARMS)))
        rows = batch.filter(kept)
        if rows.num_rows:
            yield rows


def _since(log: RecordLog, window: Window) -> Iterator[pa.RecordBatch]:
    """The version's batches of every partition from the window's beginning on."""
    for partition in range(log.partitions):
        after = log.offset_before(window.since, partition=partition)
        while batches := log.read(
            after, limit_rows=_READ_ROWS, partition=partition, model_version=window.version
        ):
            after = batches[-1][0]
            for _, batch in batches:
                yield batch
