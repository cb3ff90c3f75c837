"""Whether what a model of Python returned is what it declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coalmine.protocol import DATATYPES, Array, Signature, Tensors, TensorSpec, datatype_of
from coalmine.serving._errors import WrongOutputError

__all__ = ["checked_outputs"]


def checked_outputs(answer: Any, signature: Signature, *, rows: int | None) -> Tensors:
    """The outputs, as declared; `rows` is what a batch's outputs must have, if it is a batch."""
    if not isinstance(answer, Mapping):
        raise WrongOutputError(
            f"returned {type(answer).__name__}, not a dict of arrays by output name"
        )
    unknown = [str(name) for name in answer if name not in signature.output_names]
    missing = [name for name in signature.output_names if name not in answer]
    if missing or unknown:
        found = ", ".join(map(str, answer)) or "nothing"
        wanted = ", ".join(signature.output_names)
        raise WrongOutputError(f"returned the outputs {found}; declared are {wanted}")
    return {
        spec.name: _checked_output(answer[spec.name], spec, rows=rows) for spec in signature.outputs
    }


def _checked_output(array: Any, spec: TensorSpec, *, rows: int | None) -> Array:
    if not isinstance(array, np.ndarray | np.generic):
        raise WrongOutputError(f"output {spec.name!r} is a {type(array).__name__}, not an array")
    array = np.asarray(array)
    try:
        datatype = datatype_of(array)
    except ValueError:
        datatype = str(array.dtype)
    if datatype != spec.datatype:
        raise WrongOutputError(f"output {spec.name!r} is {datatype}, declared is {spec.datatype}")
    shape = array.shape
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise WrongOutputError(
            f"output {spec.name!r} has shape {list(shape)}, declared is {list(spec.shape)}"
        )
    if rows is not None and spec.shape[:1] == (-1,) and shape[0] != rows:
        raise WrongOutputError(
            f"output {spec.name!r} has {shape[0]} rows for {rows}; a batch needs one for each "
            "(batchable = False, if that cannot be)"
        )
    if array.dtype.kind in "SU" or array.dtype == DATATYPES["BYTES"]:
        return _as_bytes(array, spec.name)
    plain: Array = array.astype(spec.dtype, order="C", copy=False)
    return plain


def _as_bytes(array: Array, name: str) -> Array:
    values = array.ravel().tolist()
    texts = [value.encode() if isinstance(value, str) else value for value in values]
    if not all(isinstance(value, bytes) for value in texts):
        raise WrongOutputError(f"output {name!r} holds elements that are neither str nor bytes")
    result = np.empty(len(texts), dtype=np.object_)
    result[:] = texts
    return result.reshape(array.shape)
