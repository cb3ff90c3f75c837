"""The table a model is learned from and judged by, and its content address.

An Arrow table, one row per instance: the features, and

- `true_label`: the class's name; null where the label has not come yet
- `time`: seconds since the epoch, or any other number that orders the rows
- `group`: what must not be torn apart by a split: one upload of one vehicle
- `origin`: `history`, or `recent` for rows of the world as it is now
- `split`: `train`, `tune` (chooses parameters), `holdout` (judges), `unlabelled`, or `aside`: a row
  that belongs to none, so that what judges a model has taught it nothing (see `_splits`)

Not a data frame: a step is a process, and importing pandas takes longer than most steps work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coalmine.retraining._errors import NotEnoughData
from coalmine.retraining._files import file_digest

if TYPE_CHECKING:
    import pyarrow as pa

TRUE_LABEL = "true_label"
META_COLUMNS = (TRUE_LABEL, "time", "group", "origin", "split")


def with_texts(rows: pa.Table, **columns: np.ndarray | str) -> pa.Table:
    """The table with text columns set: one value for all rows, or one each."""
    import pyarrow as pa

    for name, given in columns.items():
        texts = pa.array(np.broadcast_to(given, rows.num_rows), type=pa.string())
        if name in rows.column_names:
            rows = rows.drop_columns(name)
        rows = rows.append_column(name, texts)
    return rows


def values(rows: pa.Table, name: str) -> np.ndarray:
    """A column as an array; texts as objects."""
    found: np.ndarray = rows.column(name).to_numpy()
    return found


def is_labelled(rows: pa.Table) -> np.ndarray:
    """Which rows have a label."""
    found: np.ndarray = rows.column(TRUE_LABEL).is_valid().to_numpy()
    return found


def labelled_rows(rows: pa.Table) -> pa.Table:
    """The rows that have a label: what a training set holds."""
    return rows.filter(is_labelled(rows))


def having(rows: pa.Table, **wanted: str) -> pa.Table:
    """The rows whose columns have these values."""
    kept = np.ones(rows.num_rows, dtype=bool)
    for name, value in wanted.items():
        kept &= values(rows, name) == value
    return rows.filter(kept)


def write_rows(rows: pa.Table, path: Path) -> None:
    """Write a table so that the same rows always give the same bytes."""
    import pyarrow.parquet as pq

    plain = rows.combine_chunks().replace_schema_metadata(None)
    pq.write_table(plain, path, compression="zstd")


def read_rows(path: Path) -> pa.Table:
    """Read a table that `write_rows` wrote."""
    import pyarrow.parquet as pq

    return pq.read_table(path)


def store_training_set(rows: pa.Table, *, data: Path) -> str:
    """Put the labelled rows under `data` by their content; the `sha256:` digest."""
    data.mkdir(parents=True, exist_ok=True)
    scratch = data / f".{os.getpid()}.parquet"
    try:
        write_rows(labelled_rows(rows), scratch)
        digest = file_digest(scratch)
        os.replace(scratch, training_set_path(digest, data=data))
    finally:
        scratch.unlink(missing_ok=True)
    return digest


def training_set_path(digest: str, *, data: Path) -> Path:
    """Where the training set of a digest is kept."""
    return data / f"{digest.removeprefix('sha256:')}.parquet"


def feature_matrix(rows: pa.Table, features: tuple[str, ...]) -> np.ndarray:
    """The features as float32 [rows, features], the type that the network takes; null is NaN."""
    matrix = np.empty((rows.num_rows, len(features)), dtype=np.float32)
    for index, name in enumerate(features):
        matrix[:, index] = values(rows, name)
    return matrix


def class_indices(rows: pa.Table, classes: tuple[str, ...]) -> np.ndarray:
    """The labels as indices into `classes`, int64 [rows]; -1 for a row without."""
    place = {name: index for index, name in enumerate(classes)}
    labels = rows.column(TRUE_LABEL).to_pylist()
    unknown = sorted({label for label in labels if label is not None} - set(classes))
    if unknown:
        raise NotEnoughData(f"labels that are no class of the model: {', '.join(unknown[:5])}")
    return np.array([-1 if label is None else place[label] for label in labels], dtype=np.int64)
