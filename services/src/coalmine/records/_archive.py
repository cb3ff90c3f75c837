"""The archive: records as Parquet files, partitioned by model, version and day.

A consumer of the log like any other, with its cursor beside its files. What a run is going to write
is written down before it writes: killed at any moment, the next run makes the same files again, so
no row is missing and none is there twice. Labels lie beside them in `_labels`, which readers of
Parquet folders pass over: a label outlives its place in the log no more than its record does.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from coalmine.records._log import RecordLog

__all__ = ["LABEL_SCHEMA", "archive", "quoted"]

LABEL_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("label", pa.string()),
        ("time", pa.float64()),
        ("row", pa.int32()),
        ("offset", pa.int64()),
    ]
)

_CURSOR = "_cursor.json"
_LOCK = "_lock"
#: Of a part of a path: file systems take 255 bytes, a temporary name and `version=` among them.
_LONGEST_NAME = 200
_LABELS = "_labels"


def archive(log: RecordLog, directory: Path | str, *, limit_rows: int = 250_000) -> dict[int, int]:
    """Copy what is new in the log to `directory`; the offset of each partition that it has now.

    `archived_rows` and `archived_labels` read it again.

    Files are `model=<name>/version=<version>/day=<UTC day>/<first offset>-<last offset>.parquet`, a
    layout that pandas and DuckDB read as one table; those of partition N > 0 begin with `pN-`. At
    most about `limit_rows` rows are in memory, and in a file. Two processes take turns.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        state = _State(directory)
        for partition in range(log.partitions):
            _copy(log, partition, state, limit_rows=limit_rows)
        _copy_labels(log, state, limit_rows=limit_rows)
        return {partition: state.of(partition)[0] for partition in range(log.partitions)}


def _copy(log: RecordLog, partition: int, state: _State, *, limit_rows: int) -> None:
    while True:
        done, planned = state.of(partition)
        if planned > done:  # a run was killed: make its files again, of its batches alone
            batches = _up_to(log, partition, done, planned, limit_rows=limit_rows)
            last = planned
        else:
            batches = log.read(done, limit_rows=limit_rows, partition=partition)
            if not batches:
                return
            last = batches[-1][0]
        state.set(partition, done, last)
        prefix = f"p{partition}-" if partition else ""
        name = f"{prefix}{done + 1:012d}-{last:012d}"
        _write(state.directory, name, [batch for _, batch in batches])
        state.set(partition, last, last)


def _copy_labels(log: RecordLog, state: _State, *, limit_rows: int) -> None:
    import pyarrow.parquet as pq

    folder = state.directory / _LABELS
    while True:
        done, planned = state.of(_LABELS)
        labels = log.labels_after(done, limit_rows)
        if planned > done:  # a run was killed: its file again
            labels = [label for label in labels if label.offset <= planned]
        if not labels:
            return
        last = labels[-1].offset
        state.set(_LABELS, done, last)
        folder.mkdir(exist_ok=True)
        name = f"{done + 1:012d}-{last:012d}"
        table = pa.Table.from_pylist([label._asdict() for label in labels], schema=LABEL_SCHEMA)
        pq.write_table(table, folder / f"_{name}.tmp", compression="zstd")
        _publish(folder / f"_{name}.tmp", folder / f"{name}.parquet")
        state.set(_LABELS, last, last)


def _up_to(
    log: RecordLog, partition: int, after: int, last: int, *, limit_rows: int
) -> list[tuple[int, pa.RecordBatch]]:
    batches: list[tuple[int, pa.RecordBatch]] = []
    while after < last and (more := log.read(after, limit_rows=limit_rows, partition=partition)):
        batches += more
        after = more[-1][0]
    return [(offset, batch) for offset, batch in batches if offset <= last]


def _write(directory: Path, name: str, batches: list[pa.RecordBatch]) -> None:
    import pyarrow.parquet as pq  # slow to import, and only for those who archive

    partitions: dict[tuple[str, str, str], list[pa.Table]] = defaultdict(list)
    for batch in batches:
        model, version = (batch.column(key)[0].as_py() for key in ("model_name", "model_version"))
        days = pc.strftime(batch.column("time"), format="%Y-%m-%d")
        for day in pc.unique(days).to_pylist():
            table = pa.Table.from_batches([batch]).filter(pc.equal(days, day))
            partitions[model, version, day].append(table)
    for (model, version, day), tables in sorted(partitions.items()):
        folder = (
            directory / f"model={quoted(model)}" / f"version={quoted(version)}"
        ) / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"_{name}.tmp"  # readers of Parquet folders skip names with _ in front
        for number, table in enumerate(_united(tables)):
            pq.write_table(table, temporary, compression="zstd")
            _publish(temporary, folder / f"{name}{f'-{number}' if number else ''}.parquet")


def quoted(text: str) -> str:
    """A part of a path, which file systems bound; what is too long ends in its hash."""
    whole = quote(text, safe="")
    if len(whole) <= _LONGEST_NAME:
        return whole
    return f"{whole[: _LONGEST_NAME - 17]}-{sha256(text.encode()).hexdigest()[:16]}"


def _united(tables: list[pa.Table]) -> list[pa.Table]:
    """One table of all, or several where a client changed the type of a column: one batch of its
    must not keep the log from being archived for ever."""
    united: list[pa.Table] = []
    for table in tables:
        try:
            united[-1:] = [pa.concat_tables([*united[-1:], table], promote_options="permissive")]
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            united.append(table)
    return united


class _State:
    """Of each partition, and of the labels: the offset archived, and the one a run has begun."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            content = json.loads((directory / _CURSOR).read_text(encoding="utf-8"))
        except FileNotFoundError:
            content = {}
        if "done" in content:  # of a log of before there were partitions
            content = {"0": content}
        self._partitions: dict[str, dict[str, int]] = content

    def of(self, partition: int | str) -> tuple[int, int]:
        state = self._partitions.get(str(partition), {"done": 0, "planned": 0})
        return state["done"], state["planned"]

    def set(self, partition: int | str, done: int, planned: int) -> None:
        self._partitions[str(partition)] = {"done": done, "planned": planned}
        temporary = self.directory / f"{_CURSOR}.tmp"
        temporary.write_text(json.dumps(self._partitions), encoding="utf-8")
        _publish(temporary, self.directory / _CURSOR)


def _publish(temporary: Path, path: Path) -> None:
    """Rename, durably: a reader finds the whole file or none."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
