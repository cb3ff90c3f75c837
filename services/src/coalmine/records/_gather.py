"""Spans of bytes that lie apart, brought together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Source", "spread", "transposed"]

#: Spans longer than this on average are joined as slices; that costs less per byte, more per span.
_LONG = 512
#: Bytes transposed at a time.
_BLOCK = 32_768


class Source:
    """Bytes to gather from."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data)

    def fixed(self, starts: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """What has this type at each start; IndexError if that reaches beyond the bytes."""
        places = len(self._view) - dtype.itemsize + 1
        if places <= 0 or dtype.itemsize == 0:
            if len(starts) and dtype.itemsize:
                raise IndexError("beyond the end")
            return np.empty(len(starts), dtype)
        # All spans there could be, each a byte behind the one before: picking some of them is one
        # copy each.
        every = np.ndarray((places,), f"V{dtype.itemsize}", self._view, strides=(1,))
        return every[starts].view(dtype)

    def piece(self, start: int, end: int) -> bytes:
        """One span."""
        return bytes(self._view[start:end])

    def joined(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
        """The spans one behind the other."""
        view = self._view
        return b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])

    def rows(
        self,
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        *,
        dtype: np.dtype[Any],
        width: int,
    ) -> NDArray[Any]:
        """The matrix of `counts` rows of `width` values from each start on."""
        size = dtype.itemsize * width
        total = int(counts.sum())
        if total * size > _LONG * len(starts):
            data = self.joined(starts, starts + counts * size)
            return np.frombuffer(data, dtype).reshape(-1, width)
        found = self.fixed(spread(starts, counts, size), np.dtype(f"V{size}"))
        return found.view(dtype).reshape(-1, width)


def transposed(matrix: NDArray[Any]) -> NDArray[Any]:
    """A copy with the columns of `matrix` as rows, in blocks that stay in the cache: of many rows
    that takes a quarter of the time."""
    rows, width = matrix.shape
    columns = np.empty((width, rows), matrix.dtype)
    step = max(16, _BLOCK // (width * matrix.itemsize))
    for first in range(0, rows, step):
        columns[:, first : first + step] = matrix[first : first + step].T
    return columns


def spread(starts: NDArray[np.int64], counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where each part of `size` bytes begins, of the `counts` that lie from each start on."""
    if (counts == 1).all():
        return starts
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(starts)), counts)
    places: NDArray[np.int64] = starts[owner] + (np.arange(len(owner)) - first[owner]) * size
    return places
