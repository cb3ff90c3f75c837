"""Whether what code of the user's returned is what it declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coalmine.protocol import (
    DATATYPES,
    Array,
    SignatureError,
    Tensors,
    TensorSpec,
    datatype_of,
)
from coalmine.serving._errors import WrongOutputError

__all__ = ["checked_tensors", "refusal_of"]


def refusal_of(error: ValueError) -> SignatureError:
    """A client's mistake that the user's code has found, in its words if it has any."""
    return SignatureError(str(error) or "the model refuses this input, and does not say why")


def checked_tensors(
    answer: Any,
    specs: tuple[TensorSpec, ...],
    *,
    rows: int | None,
    what: str = "output",
    surplus: bool = False,
) -> Tensors:
    """The tensors, as declared; `rows` is what those of a batch must have, if it is a batch.

    With `surplus` what is not declared is left out, else it is an error. `what` is for messages.
    """
    if not isinstance(answer, Mapping):
        raise WrongOutputError(
            f"returned {type(answer).__name__}, not a dict of arrays by {what} name"
        )
    names = [spec.name for spec in specs]
    if any(name not in answer for name in names) or (not surplus and len(answer) > len(names)):
        found = ", ".join(map(str, answer)) or "nothing"
        raise WrongOutputError(f"returned the {what}s {found}; declared are {', '.join(names)}")
    return {
        spec.name: _checked(answer[spec.name], spec, rows=rows, called=f"{what} {spec.name!r}")
        for spec in specs
    }


def _checked(array: Any, spec: TensorSpec, *, rows: int | None, called: str) -> Array:
    if not isinstance(array, np.ndarray | np.generic):
        raise WrongOutputError(f"{called} is a {type(array).__name__}, not an array")
    array = np.asarray(array)
    try:
        datatype = datatype_of(array)
    except ValueError:
        datatype = str(array.dtype)
    if datatype != spec.datatype:
        raise WrongOutputError(f"{called} is {datatype}, declared is {spec.datatype}")
    shape = array.shape
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise WrongOutputError(f"{called} has shape {list(shape)}, declared is {list(spec.shape)}")
    if rows is not None and spec.shape[:1] == (-1,) and shape[0] != rows:
        raise WrongOutputError(
            f"{called} has {shape[0]} rows for {rows}; a batch needs one for each"
        )
    if array.dtype.kind in "SU" or array.dtype == DATATYPES["BYTES"]:
        return _as_bytes(array, called)
    plain: Array = array.astype(spec.dtype, order="C", copy=False)
    return plain


def _as_bytes(array: Array, called: str) -> Array:
    values = array.ravel().tolist()
    texts = [value.encode() if isinstance(value, str) else value for value in values]
    if not all(isinstance(value, bytes) for value in texts):
        raise WrongOutputError(f"{called} holds elements that are neither str nor bytes")
    result = np.empty(len(texts), dtype=np.object_)
    result[:] = texts
    return result.reshape(array.shape)
