"""The shape and datatype of a tensor, and numpy's side of the protocol's datatypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATATYPES", "Array", "TensorSpec", "Tensors", "datatype_of", "dtype_of"]

Array = NDArray[Any]
Tensors = dict[str, Array]

#: numpy dtype of each datatype; the elements of BYTES are Python `bytes`.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of a datatype; ValueError for a name that is none.

    >>> dtype_of("FP32")
    dtype('float32')
    """
    try:
        return DATATYPES[datatype]
    except KeyError:
        allowed = ", ".join(DATATYPES)
        raise ValueError(f"{datatype!r} is not a datatype; allowed: {allowed}") from None


def datatype_of(array: Array) -> str:
    """The datatype of an array; strings of any kind are BYTES.

    >>> datatype_of(np.zeros(2, np.int64)), datatype_of(np.array(["a"]))
    ('INT64', 'BYTES')
    """
    name = _NAMES.get(array.dtype)
    if name is not None:
        return name
    if array.dtype.kind in "SU":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("=")]
    except KeyError:
        raise ValueError(f"{array.dtype} has no datatype in the inference protocol") from None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor must look like. -1 is a free dimension; the first one is the batch.

    >>> TensorSpec("features", "FP32", (-1, 2))
    TensorSpec(name='features', datatype='FP32', shape=(-1, 2))
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        dtype_of(self.datatype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the tensor's elements."""
        return DATATYPES[self.datatype]
