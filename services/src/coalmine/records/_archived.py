"""Reading the archive: what the log has no longer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from coalmine.records._archive import LABEL_SCHEMA, quoted
from coalmine.records._log import RecordLog
from coalmine.records._schema import class_name, label_categories

__all__ = ["archived_labels", "archived_rows", "label_archived"]

_FILE = re.compile(r"(?:p(\d+)-)?(\d+)-\d+\.parquet")
_READ_LABELS = 50_000


def archived_rows(
    directory: Path,
    log: RecordLog,
    *,
    model_version: str,
    since: float,
    until: float,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """The files of a version with record times in [since, until) that the log has not all of.

    With `columns`, only those. Read the log first: what is deleted from it meanwhile is in the
    archive by then. A file may hold other times besides, and rows that are in the log too.
    """
    import pyarrow.parquet as pq

    gone = {part: log.offset_before(0.0, partition=part) for part in range(log.partitions)}
    first, last = _day(since), _day(until)
    for path in sorted(directory.glob(f"model=*/version={quoted(model_version)}/day=*/*")):
        found = _FILE.fullmatch(path.name)
        day = path.parent.name.removeprefix("day=")
        if found is None or not first <= day <= last:
            continue
        if int(found[2]) <= gone.get(int(found[1] or 0), 0):
            yield pq.ParquetFile(path).read(columns=columns)


def archived_labels(
    directory: Path, log: RecordLog, request_ids: pa.Array, *, up_to: int | None = None
) -> pa.Table:
    """The newest label of each row of some requests, from the archive and the log after it.

    Columns `request_id`, `row` and `label`. With `up_to`, an offset of labels: as it was then.
    """
    import pyarrow.dataset as ds

    # The log's labels first: what expires from it meanwhile is archived by then.
    folder = directory / "_labels"
    parts = [LABEL_SCHEMA.empty_table()]
    after = _archived_up_to(folder)
    while labels := log.labels_after(after, _READ_LABELS):
        table = pa.Table.from_pylist([label._asdict() for label in labels], schema=LABEL_SCHEMA)
        parts.append(table.filter(pc.is_in(table.column("request_id"), request_ids)))
        after = labels[-1].offset
    if folder.is_dir():
        wanted = pc.field("request_id").isin(request_ids)
        parts.append(
            ds.dataset(folder, schema=LABEL_SCHEMA, format="parquet").to_table(filter=wanted)
        )
    table = pa.concat_tables(parts)
    if up_to is not None:
        table = table.filter(pc.less_equal(table.column("offset"), up_to))
    # The newest by its own time, and of the same time the last that came; as the log itself has it.
    table = table.sort_by([("time", "ascending"), ("offset", "ascending")])
    table = table.group_by(["request_id", "row"], use_threads=False).aggregate([("label", "last")])
    return table.rename_columns(
        ["label" if name == "label_last" else name for name in table.column_names]
    )


def label_archived(
    directory: Path, log: RecordLog, records: pa.Table, *, up_to: int | None = None
) -> pa.Table:
    """`records` that have a label, with it as column `true_label`, as `RecordLog.labelled`."""
    ids = pc.unique(records.column("request_id"))
    labels = archived_labels(directory, log, ids, up_to=up_to)
    known: Mapping[tuple[str, int], str] = {
        (label["request_id"], label["row"]): label["label"] for label in labels.to_pylist()
    }
    categories = label_categories(records.schema)
    keys = zip(
        records.column("request_id").to_pylist(), records.column("row").to_pylist(), strict=True
    )
    found = [known.get(key) for key in keys]
    names = [label if label is None else class_name(label, categories) for label in found]
    column = pa.array(names, pa.string())
    return records.append_column("true_label", column).filter(pc.is_valid(column))


def _archived_up_to(folder: Path) -> int:
    """The offset of the newest label that is archived."""
    found = [int(path.stem.partition("-")[2]) for path in folder.glob("[0-9]*-*.parquet")]
    return max(found, default=0)


def _day(seconds: float) -> str:
    """The UTC day of a record time; the ends of the calendar for what is beyond them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return "0000-00-00" if seconds < 0 else "9999-99-99"
