"""What was answered to each row of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coalmine.spec import SegmentColumnSpec
from coalmine_monitors._rows import answered, times
from coalmine_monitors._segments import segment_indices
from coalmine_monitors._versions import batch_arm, batch_version
from coalmine_monitors.performance._estimate import Calibration
from coalmine_monitors.performance._join import Answer
from coalmine_monitors.performance._scores import SEPARATOR
from coalmine_monitors.performance._tasks import TaskColumns, chances_of, task_of

__all__ = ["answers_of"]


def answers_of(
    batch: pa.RecordBatch,
    *,
    calibration: Calibration | None = None,
    segments: Sequence[SegmentColumnSpec] = (),
) -> list[Answer]:
    """The answers that labels can be about; none if they are neither classes nor a number.

    With a `calibration`, each with its chance to be right.
    """
    found = task_of(batch.schema)
    batch = answered(batch)
    if found is None or not batch.num_rows:
        return []
    version, arm = batch_version(batch), batch_arm(batch)
    chances = np.full(batch.num_rows, np.nan) if calibration is None else calibration.chances(batch)
    return [
        Answer(request_id, row, arm, version, time, *answer, segments=of)
        for request_id, row, time, answer, of in zip(
            batch.column("request_id").to_pylist(),
            batch.column("row").to_pylist(),
            times(batch).tolist(),
            _answers(batch, found, chances),
            _segment_texts(batch, segments),
            strict=True,
        )
        if answer is not None
    ]


_Answered = tuple[str | None, str | None, float | None, int, float | None, bytes | None]


def _answers(
    batch: pa.RecordBatch, found: TaskColumns, chances: NDArray[np.float64]
) -> Iterable[_Answered | None]:
    """Answer, number, chance, class, value and chances of each row; None of a row without."""
    column = batch.column(found.answer)
    classes = found.task.classes
    if found.task.kind == "regression":
        numbers = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
        for number in numbers.tolist():
            known = np.isfinite(number)
            yield (None, None, None, -1, number, None) if known else None
        return
    if pa.types.is_string(column.type):
        column = pc.index_in(column, value_set=pa.array(classes, pa.string()))
    indices = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    said = chances_of(batch, found).astype(np.float32) if found.chances else None
    by_number = found.task.by_number
    for place, (index, chance) in enumerate(zip(indices.tolist(), chances.tolist(), strict=True)):
        if not 0 <= index < len(classes):  # NaN, for a null, is neither
            yield None
            continue
        klass = int(index)
        yield (
            classes[klass],
            str(klass) if by_number else None,
            chance if chance == chance else None,
            klass,
            None,
            None if said is None else said[place].tobytes(),
        )


def _segment_texts(batch: pa.RecordBatch, specs: Sequence[SegmentColumnSpec]) -> list[str]:
    """The segments [rows] of each row, as one text."""
    cut = segment_indices(batch, specs)
    parts = [[names[index] if index >= 0 else "" for index in of] for names, of in cut]
    if not parts:
        return [""] * batch.num_rows
    return [SEPARATOR.join(filter(None, row)) for row in zip(*parts, strict=True)]
