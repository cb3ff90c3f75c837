"""Arrow arrays out of numpy's. `pa.array` would import pandas for them, if that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["check_size", "number_array", "same_text", "text_array", "texts"]

#: Of the bytes of one column of texts: what a few bytes of a stranger may become.
_MOST_BYTES = 2**28


def number_array(values: NDArray[Any], *, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """An array of numbers or booleans, null where it is not `valid`."""
    kind = pa.from_numpy_dtype(values.dtype)
    data = _bits(values) if kind == pa.bool_() else pa.py_buffer(np.ascontiguousarray(values))
    validity = None if valid is None else _bits(valid)
    return pa.Array.from_buffers(kind, len(values), [validity, data])


def text_array(values: Sequence[str]) -> pa.Array:
    """An array of strings."""
    encoded = [value.encode() for value in values]
    return texts(b"".join(encoded), np.array([len(each) for each in encoded], np.int64))


def same_text(value: str, count: int) -> pa.Array:
    """The same string `count` times."""
    data = value.encode()
    check_size(len(data) * count)
    return _strings(np.arange(count + 1, dtype=np.int32) * np.int32(len(data)), data * count)


def texts(
    data: bytes | NDArray[np.uint8],
    lengths: NDArray[Any],
    *,
    valid: NDArray[np.bool_] | None = None,
) -> pa.Array:
    """The strings that lie in `data` one behind the other; ValueError if they are not UTF-8."""
    check_size(len(data))
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    array = _strings(offsets, data, valid=valid)
    array.validate(full=True)
    return array


def check_size(size: int) -> None:
    """ValueError if so many bytes are too many for a column of texts."""
    if size > _MOST_BYTES:
        raise ValueError(f"{size} bytes of text in a column, more than {_MOST_BYTES}")


def _strings(
    offsets: NDArray[np.int32],
    data: bytes | NDArray[np.uint8],
    *,
    valid: NDArray[np.bool_] | None = None,
) -> pa.Array:
    validity = None if valid is None else _bits(valid)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))
