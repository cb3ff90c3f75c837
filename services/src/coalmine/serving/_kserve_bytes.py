"""BYTES that are no text, under KServe's own server.

KServe 0.21 makes JSON's values of binary tensors as soon as it has read a request. Bytes that are
not UTF-8, a picture say, have none: it answers 500, and all of the picture in the message.
"""

from __future__ import annotations

from typing import Any

from kserve import InferInput
from kserve.errors import InferenceError

__all__ = ["keep_bytes"]

_theirs = InferInput.set_data_from_numpy


def keep_bytes() -> None:
    """Have KServe leave such a tensor as it came; once is enough for a process."""
    InferInput.set_data_from_numpy = _set_data_from_numpy


def _set_data_from_numpy(self: Any, input_tensor: Any, binary_data: bool = True) -> None:
    raw = self._raw_data
    try:
        _theirs(self, input_tensor, binary_data)
    except InferenceError:
        if binary_data or raw is None or self._datatype != "BYTES":
            raise
        self._data, self._raw_data = None, raw
