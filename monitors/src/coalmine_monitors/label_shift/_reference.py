"""The confusions of a model version, from the reference that is stored with it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from coalmine.modeldir import Column
from coalmine_monitors._rows import matrix
from coalmine_monitors.label_shift._bbse import BlackBoxShift

__all__ = ["TRUE_LABEL", "reference_shift"]

#: Column of a reference with the true classes, by name or by index.
TRUE_LABEL = "true_label"
#: Contiguous stretches of a reference that say how its predictions swing.
_STRETCHES = 20


def reference_shift(table: pa.Table, label: Column) -> BlackBoxShift | None:
    """Of a reference with true classes, and the column of predicted ones; None without either."""
    classes = label.categories or ()
    if TRUE_LABEL not in table.column_names or label.name not in table.column_names or not classes:
        return None
    predicted = matrix(table, (label,))[:, 0]
    index = {name: place for place, name in enumerate(classes)}
    numbers = {str(place): place for place in range(len(classes))}
    truth = np.array(
        [
            index.get(name, numbers.get(name, -1)) if name is not None else -1
            for name in table.column(TRUE_LABEL).cast(pa.string()).to_pylist()
        ]
    )
    size = len(classes)
    usable = (truth >= 0) & (predicted >= 0) & (predicted < size)
    cells = predicted[usable].astype(np.int64) * size + truth[usable]
    counts = np.bincount(cells, minlength=size**2).reshape(size, size)
    return BlackBoxShift.fit(
        counts, classes=classes, inflation=_inflation(predicted, size), label=label.name
    )


def _inflation(predicted: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: int) -> float:
    """How much more shares vary from stretch to stretch than independent rows would let them."""
    known = predicted[(predicted >= 0) & (predicted < size)].astype(np.int64)
    if known.size < 10 * _STRETCHES:
        return 1.0
    stretches = np.array_split(known, _STRETCHES)
    shares = np.array([np.bincount(part, minlength=size) / part.size for part in stretches])
    overall = shares.mean(axis=0)
    expected = (overall * (1 - overall)).sum() * _STRETCHES / known.size
    return float(shares.var(axis=0, ddof=1).sum() / max(expected, 1e-12))
