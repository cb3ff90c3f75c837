"""Labels in SQLite: what each delivery means, and the join with records."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coalmine.records._fingerprints import KnownRequests, fingerprints
from coalmine.records._schema import class_name, label_categories
from coalmine.records._sqlite_schema import key_of, offset_of, span_of
from coalmine.records._types import Label, LabelCounts

__all__ = ["Fate", "common_classes", "join_labels", "refresh", "store_labels"]


#: Ids asked for at once; SQLite takes 32,766 parameters.
_PARAMETERS = 10_000


class Fate(StrEnum):
    """What becomes of a delivered label."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    CORRECTED = "corrected"
    UNKNOWN = "unknown"


def store_labels(
    connection: sqlite3.Connection, labels: Sequence[Label], *, known: KnownRequests, now: float
) -> LabelCounts:
    """Within the caller's transaction, store each label that says something new."""
    present = known.contains(fingerprints(pa.array([label.request_id for label in labels])))
    categories = common_classes(connection)
    counts = dict.fromkeys(Fate, 0)
    for label, is_known in zip(labels, present.tolist(), strict=True):
        name = class_name(label.label, categories)
        fate = _fate(_current(connection, label), name=name, time=label.time, is_known=is_known)
        counts[fate] += 1
        if fate is not Fate.REPEATED:
            connection.execute(
                "INSERT INTO labels (request_id, row, label, time, received_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (label.request_id, label.row, name, label.time, now),
            )
    stored = len(labels) - counts[Fate.REPEATED]
    connection.execute("UPDATE totals SET labels = labels + ?", (stored,))
    return LabelCounts(**counts)


def refresh(
    connection: sqlite3.Connection, known: KnownRequests, *, partition: int, after: int
) -> int:
    """Make the requests of a partition's batches after an offset known; the offset reached."""
    rows = connection.execute(
        "SELECT key, requests FROM batches WHERE key > ? AND key <= ? ORDER BY key",
        (key_of(partition, after), span_of(partition)[1]),
    )
    for key, requests in rows:
        known.add(np.frombuffer(requests, np.uint64))
        after = offset_of(key)
    return after


def join_labels(
    connection: sqlite3.Connection, records: pa.Table, *, up_to: int | None = None
) -> pa.Table:
    """The records that have a label, with the newest (up to an offset) as column `true_label`."""
    ids = pc.unique(records.column("request_id")).to_pylist()
    newest = _newest(connection, ids, 2**62 if up_to is None else up_to)
    keys = zip(
        records.column("request_id").to_pylist(), records.column("row").to_pylist(), strict=True
    )
    labels: list[str | None] = [newest.get(key) for key in keys]
    categories = label_categories(records.schema)
    names = [label if label is None else class_name(label, categories) for label in labels]
    column = pa.array(names, pa.string())
    return records.append_column("true_label", column).filter(pc.is_valid(column))


def _newest(
    connection: sqlite3.Connection, ids: list[str], up_to: int
) -> dict[tuple[str, int], str]:
    """The newest label of each row of some requests."""
    newest: dict[tuple[str, int], str] = {}
    for start in range(0, len(ids), _PARAMETERS):
        some = ids[start : start + _PARAMETERS]
        # SQLite takes the other columns of a group from the row where max() is.
        rows = connection.execute(
            "SELECT request_id, row, label, max(offset) FROM labels"
            f" WHERE request_id IN ({', '.join('?' * len(some))}) AND offset <= ?"
            " GROUP BY request_id, row",
            [*some, up_to],
        )
        newest.update({(request_id, row): label for request_id, row, label, _ in rows})
    return newest


def _fate(current: tuple[str, float] | None, *, name: str, time: float, is_known: bool) -> Fate:
    if current is None:
        return Fate.ACCEPTED if is_known else Fate.UNKNOWN
    label, since = current
    # An older label that arrives late (a retried delivery) must not undo a correction.
    return Fate.REPEATED if label == name or time < since else Fate.CORRECTED


def _current(connection: sqlite3.Connection, label: Label) -> tuple[str, float] | None:
    row: tuple[str, float] | None = connection.execute(
        "SELECT label, time FROM labels WHERE request_id = ? AND row = ?"
        " ORDER BY offset DESC LIMIT 1",
        (label.request_id, label.row),
    ).fetchone()
    return row


def common_classes(connection: sqlite3.Connection) -> tuple[str, ...]:
    """See `RecordLog.classes`; where they differ each record's own count when labels are joined."""
    schemas = connection.execute("SELECT body FROM schemas")
    found = {label_categories(pa.ipc.read_schema(pa.py_buffer(body))) for (body,) in schemas}
    return found.pop() if len(found) == 1 else ()
