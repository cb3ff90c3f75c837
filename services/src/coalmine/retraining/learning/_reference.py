"""The reference that the monitors of a new version compare with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coalmine.modeldir import MODEL_FILE, REFERENCE_FILE, load_card
from coalmine.retraining._errors import NotEnoughData
from coalmine.retraining.learning._onnx import LABEL, Network
from coalmine.retraining.learning._rows import TRUE_LABEL, feature_matrix, values
from coalmine.retraining.learning._train import CrossFitted

if TYPE_CHECKING:
    import pyarrow as pa

#: Windows of the drift monitor that a reference must span: thresholds are calibrated on its blocks.
MIN_WINDOWS = 20


def build_reference(
    rows: pa.Table,
    directory: Path,
    *,
    cross_fitted: CrossFitted | None,
    window_rows: int,
    is_traffic: bool = False,
) -> int:
    """Write `reference.parquet` into a model directory; its number of rows.

    The recent rows in the order of time, with the model's outputs beside the features: its own
    where it had not seen the row, and `cross_fitted` ones where it was trained on it. Where the
    rows are traffic (`is_traffic`), which records have dated, their `time` is kept, so that a
    season can be read off it; the days of a file or a simulation are not the traffic's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    card = load_card(directory)
    features = tuple(column.name for column in card.feature_columns())
    place = np.flatnonzero(values(rows, "origin") == "recent")
    place = place[np.argsort(values(rows, "time")[place], kind="stable")]
    if len(place) < MIN_WINDOWS * window_rows:
        raise NotEnoughData(
            f"{len(place)} recent rows make no reference: the monitors' windows have "
            f"{window_rows} rows, and {MIN_WINDOWS} windows are needed"
        )
    recent = rows.take(place)
    matrix = feature_matrix(recent, features)
    labels, probabilities = Network(directory / MODEL_FILE).predict(matrix)
    if cross_fitted is not None:
        order = np.argsort(place)
        here = order[np.searchsorted(place, cross_fitted.rows, sorter=order)]
        probabilities[here] = cross_fitted.probabilities.astype(np.float32)
        labels[here] = probabilities[here].argmax(axis=1)
    outputs = [column.name for column in card.output_columns()]
    columns = {name: matrix[:, index] for index, name in enumerate(features)}
    columns[LABEL] = labels
    others = [name for name in outputs if name != LABEL]
    columns |= {name: probabilities[:, index] for index, name in enumerate(others)}
    table = pa.table({name: pa.array(columns[name]) for name in (*features, *outputs)})
    table = table.append_column(TRUE_LABEL, recent.column(TRUE_LABEL).cast(pa.string()))
    if is_traffic:
        micros = np.round(values(recent, "time") * 1e6).astype(np.int64)
        table = table.append_column("time", pa.array(micros, pa.timestamp("us", tz="UTC")))
    pq.write_table(table, directory / REFERENCE_FILE, compression="zstd")
    return len(place)
