"""What production has seen since an onset: the record log, and the archive of what left it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
#: What tells whether a row belongs to a window.
_COUNTED = [*_KEY, "time", "status", "arm"]


@dataclass(frozen=True, slots=True)
class Window:
    """Records of one model version, by record time in [since, until), seconds since the epoch."""

    version: str
    since: float
    until: float
    labels: int | None = None
    """Offset of the newest label that counts; None: of all that are there."""


def recent_rows(
    log: RecordLog,
    window: Window,
    *,
    features: tuple[str, ...],
    limit: int,
    archive: Path | None = None,
) -> pa.Table:
    """The newest `limit` rows of a window that a model answered, labelled or not yet, by time.

    Columns: the features (float32), and `true_label` (null where unknown), `time` (seconds since
    the epoch), `group` (the request). A row that was recorded twice, as a retried request may be,
    is there once. With `archive`, the log's, also what has expired from the log.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [*_KEY, "time", *features]
    parts = [pa.Table.from_batches([batch]).select(columns) for batch in _batches(log, window)]
    labels = _labels_in_log(log, window)
    # After the log: what left it meanwhile is here.
    expired = _expired(log, window, archive)
    parts = [*(table.select(columns) for table in expired), *parts]
    if not parts:
        raise NotEnoughData(f"version {window.version} has answered nothing since the onset")
    rows = _last_of_each(pa.concat_tables(parts, promote_options="permissive"))
    labels = _all_labels(log, window, expired, labels, archive=archive)
    rows = rows.join(labels, _KEY, join_type="left outer")
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


def count_rows(log: RecordLog, window: Window, *, archive: Path | None = None) -> int:
    """Rows of the window that a model answered."""
    import pyarrow as pa

    present = list(_batches(log, window, columns=_KEY))
    expired = _expired(log, window, archive, columns=_COUNTED)
    if not expired:
        return sum(batch.num_rows for batch in present)
    keys = [table.select(_KEY) for table in expired]
    keys += [pa.Table.from_batches([batch]) for batch in present]
    return int(_last_of_each(pa.concat_tables(keys)).num_rows)


def count_labelled(log: RecordLog, window: Window, *, archive: Path | None = None) -> int:
    """Rows of the window whose label has come."""
    labels = _labels_in_log(log, window)
    expired = _expired(log, window, archive, columns=_COUNTED)
    return int(_all_labels(log, window, expired, labels, archive=archive).num_rows)


def _labels_in_log(log: RecordLog, window: Window) -> pa.Table:
    table = log.labelled(
        window.version, window.since, window.until, arms=_ARMS, labels_up_to=window.labels
    )
    return table.select([*_KEY, "true_label"])


def _all_labels(
    log: RecordLog,
    window: Window,
    expired: Sequence[pa.Table],
    labels: pa.Table,
    *,
    archive: Path | None,
) -> pa.Table:
    """The label of each row that has one, once: of the expired rows too."""
    import pyarrow as pa

    from coalmine.records import label_archived

    parts = [labels]
    if archive is not None:
        parts = [
            label_archived(archive, log, table, up_to=window.labels).select(labels.column_names)
            for table in expired
        ] + parts
    return _last_of_each(pa.concat_tables(parts, promote_options="permissive"))


def _last_of_each(table: pa.Table) -> pa.Table:
    """Each row of each request once."""
    import pyarrow as pa

    numbered = table.append_column("place", pa.array(np.arange(table.num_rows)))
    last = numbered.group_by(_KEY).aggregate([("place", "max")]).column("place_max")
    return table.take(np.sort(last.to_numpy()))


def _batches(
    log: RecordLog, window: Window, *, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The batches of a window in the log, only with its rows."""
    for batch in _since(log, window):
        rows = batch.filter(_counted(batch, window))
        if rows.num_rows:
            yield rows if columns is None else rows.select(columns)


def _expired(
    log: RecordLog,
    window: Window,
    archive: Path | None,
    *,
    columns: Sequence[str] | None = None,
) -> list[pa.Table]:
    """The rows of a window that the archive has, and the log not all of any more."""
    from coalmine.records import archived_rows

    if archive is None:
        return []
    files = archived_rows(
        archive,
        log,
        model_version=window.version,
        since=window.since,
        until=window.until,
        columns=columns,
    )
    tables = [table.filter(_counted(table, window)) for table in files]
    return [table for table in tables if table.num_rows]


def _counted(rows: pa.RecordBatch | pa.Table, window: Window) -> pa.Array:
    """Which rows belong to a window: its times, answered, and not by the shadow."""
    import pyarrow as pa
    import pyarrow.compute as pc

    since, until = (
        pa.scalar(round(edge * 1e6), pa.timestamp("us", tz="UTC"))
        for edge in (window.since, window.until)
    )
    times = rows.column("time")
    kept = pc.and_(pc.greater_equal(times, since), pc.less(times, until))
    kept = pc.and_(kept, pc.equal(rows.column("status"), 200))
    return pc.and_(kept, pc.is_in(rows.column("arm"), pa.array(_ARMS)))


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
