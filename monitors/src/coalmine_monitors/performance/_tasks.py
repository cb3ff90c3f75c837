"""What a model's answers are, from the schema of its records: classes, or a number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["MAX_CLASSES", "Task", "TaskColumns", "chances_of", "task_of"]

#: Classes beyond these are not scored one by one: accuracy alone is.
MAX_CLASSES = 50
#: How far the chances of a row may be from adding up to 1, to be chances at all.
_TOLERANCE = 1e-2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What the answers of one version are."""

    kind: Literal["classification", "regression"]
    classes: tuple[str, ...] = ()
    shift: float = 0.0
    """Regression: about what truths are counted, so that sums of squares keep their digits."""

    @property
    def by_number(self) -> bool:
        """Whether a label may be the index of its class: not if names of classes look like that."""
        return not any(name.isdigit() for name in self.classes)

    def class_of(self, label: str) -> int:
        """The index of a label's class, -1 of an unknown one."""
        if label in self.classes:
            return self.classes.index(label)
        if self.by_number and label.isascii() and label.isdigit():
            return int(label) if int(label) < len(self.classes) else -1
        return -1


class TaskColumns(NamedTuple):
    """Which columns of a record say it: of the answer, and of the chance of each class."""

    task: Task
    answer: str
    chances: tuple[str, ...] = ()


def task_of(schema: pa.Schema) -> TaskColumns | None:
    """The task of records with a schema; None if their outputs are neither classes nor a number.

    The first categorical output is the class. Floating outputs are the chances of the classes if
    there are as many as classes (or one, of two: that of the second). Without a class, the answer
    is the only numeric output.
    """
    outputs = [field for field in schema if (field.metadata or {}).get(b"role") == b"output"]
    named = [field for field in outputs if b"categories" in (field.metadata or {})]
    numeric = [field for field in outputs if b"categories" not in (field.metadata or {})]
    floating = tuple(field.name for field in numeric if pa.types.is_floating(field.type))
    if named:
        classes = tuple(json.loads(named[0].metadata[b"categories"]))
        fits = len(floating) == len(classes) or (len(floating), len(classes)) == (1, 2)
        chances = floating if fits and len(classes) <= MAX_CLASSES else ()
        return TaskColumns(Task("classification", classes), named[0].name, chances)
    if len(numeric) == 1:
        return TaskColumns(Task("regression"), numeric[0].name)
    return None


def chances_of(batch: pa.RecordBatch, found: TaskColumns) -> Floats:
    """The chances [rows, classes] a model gave; NaN where it gave none, or no chances."""
    count = len(found.task.classes)
    said = np.full((batch.num_rows, count), np.nan)
    if not found.chances:
        return said
    columns = [
        np.asarray(batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False))
        for name in found.chances
    ]
    said = np.column_stack([1 - columns[0], *columns] if len(columns) < count else columns)
    with np.errstate(invalid="ignore"):
        good = (said >= 0).all(axis=1) & (abs(said.sum(axis=1) - 1) <= _TOLERANCE)
    said[~good] = np.nan
    return np.asarray(said)
