"""Whether a network computes each row by itself. Its signature does not say, so it is tried.

A first size that is free is most often the batch. It may also be the time of a recurrent network,
or what a sum runs over; two inputs may each have a free size of their own. Requests that were
joined would then change each other's answers, and nothing would tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coalmine.protocol import Array, Tensors, TensorSpec

__all__ = ["computes_rows_apart"]

#: By how much a row's answer may differ in company, of the largest value: rounding, and the scale
#: that dynamic quantisation takes from all values together.
_TOLERANCE = 0.05


def computes_rows_apart(
    run: Callable[[Tensors], Tensors], inputs: Sequence[TensorSpec]
) -> bool | None:
    """Whether rows have the same outputs together as one by one; None if the samples do not tell.

    `run` is a network whose inputs all have a free first size. A row is tried between two others,
    which are on either side of it in time.
    """
    one, other = ({s.name: _row(s, second=n) for s in inputs} for n in (False, True))
    try:
        alone = [run(one), run(other)]
    except Exception:  # sizes and numbers that we made up need not suit it
        return None
    try:
        together = run({name: np.concatenate([one[name], other[name], one[name]]) for name in one})
    except Exception:
        return False
    wanted = {name: [alone[n][name] for n in (0, 1, 0)] for name in together}
    if all(_is_each(array, wanted[name]) for name, array in together.items()):
        return True
    again = run(one)  # of a network that draws random numbers nothing can be said
    same = all(_close(again[name], array) for name, array in alone[0].items())
    return False if same else None


def _row(spec: TensorSpec, *, second: bool) -> Array:
    """A row whose free sizes are 1. Whole numbers are 0 or 1, since they may be indices."""
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"1" if second else b"0", dtype=np.object_)
    if spec.dtype.kind != "f":
        return np.full(shape, second, dtype=spec.dtype)
    values = np.random.default_rng(0).random(shape)
    return (-values if second else values).astype(spec.dtype)


def _is_each(array: Array, rows: Sequence[Array]) -> bool:
    if array.shape[:1] != (len(rows),):
        return False
    return all(_close(array[n : n + 1], row) for n, row in enumerate(rows))


def _close(found: Array, wanted: Array) -> bool:
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(found, wanted))
    finite = wanted[np.isfinite(wanted)].astype(np.float64)
    most = float(np.abs(finite).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        close = np.isclose(
            found.astype(np.float64),
            wanted.astype(np.float64),
            rtol=0.0,
            atol=_TOLERANCE * most,
            equal_nan=True,
        )
    return bool(close.all())
