"""A model's signature, and the check of a request against it before the model sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from coalmine.protocol._errors import SignatureError
from coalmine.protocol._tensors import Array, Tensors, TensorSpec

__all__ = ["InferenceCall", "NonFinite", "Signature", "is_finite"]

#: What FP tensors may hold beside numbers: NaN as a missing value, NaN and infinity, or neither.
NonFinite = Literal["missing", "allow", "reject"]


class InferenceCall(NamedTuple):
    """A request, decoded and found to fit the model.

    A named tuple, not a frozen dataclass: one is made per request, and it costs a third.
    """

    tensors: Tensors
    rows: int
    """Instances in the request: the first dimension of every input."""

    outputs: tuple[str, ...]
    """Names of the outputs to return, in this order."""

    id: str | None = None
    """The protocol's own request id, if the client gave one."""

    binary: frozenset[str] = frozenset()
    """Outputs to return as raw bytes instead of values."""

    timeout: float = math.inf
    """Seconds that the client gives the request."""

    columnar: bool = False
    """Of V1: the request was columns (`inputs`), and so is the answer (`outputs`)."""


@dataclass(frozen=True)
class Signature:
    """The tensors a model takes and returns.

    >>> signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), ())
    >>> signature.check({"x": np.zeros((3, 2), np.float32)})
    3
    >>> signature.check({"x": np.zeros((3, 5), np.float32)})
    Traceback (most recent call last):
    coalmine.protocol._errors.SignatureError: input 'x': shape [3, 5] does not fit [-1, 2]
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    non_finite: NonFinite = "missing"
    batched: bool = True
    """Whether the free first sizes of the inputs are one and the same, the rows of a request. If
    not, a request is one instance, whatever its sizes."""

    input_specs: dict[str, TensorSpec] = field(init=False, repr=False, compare=False)
    output_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _of_rows: frozenset[str] = field(init=False, repr=False, compare=False)
    _fixed_rows: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_specs", {spec.name: spec for spec in self.inputs})
        object.__setattr__(self, "output_names", tuple(spec.name for spec in self.outputs))
        of_rows = [spec.name for spec in self.inputs if spec.shape[:1] == (-1,)]
        object.__setattr__(self, "_of_rows", frozenset(of_rows if self.batched else ()))
        # Sizes that are fixed are rows only if all say the same: an image comes with its height.
        fixed = {spec.shape[0] for spec in self.inputs if spec.shape}
        rows = fixed.pop() if len(fixed) == 1 else 1
        object.__setattr__(self, "_fixed_rows", max(rows, 1))

    def input(self, name: object) -> TensorSpec:
        """The input of this name; SignatureError if there is none."""
        spec = self.input_specs.get(name) if isinstance(name, str) else None
        if spec is None:
            known = ", ".join(self.input_specs)
            raise SignatureError(f"unknown input {_short(name)}; the model's inputs: {known}")
        return spec

    def select(self, names: Sequence[object]) -> tuple[str, ...]:
        """The outputs asked for, or all; SignatureError for an unknown or doubled one."""
        if not names:
            return self.output_names
        for name in names:
            if name not in self.output_names:
                known = ", ".join(self.output_names)
                raise SignatureError(f"unknown output {_short(name)}; the model's outputs: {known}")
        if len(set(names)) != len(names):
            raise SignatureError("an output is asked for more than once")
        return tuple(str(name) for name in names)

    def check(self, tensors: Tensors) -> int:
        """The number of rows, if every input is there and fits.

        With `non_finite="missing"` NaN is a missing value and passes in FP tensors, infinity does
        not; "allow" lets both pass, "reject" none.
        """
        if len(tensors) != len(self.inputs):
            missing = ", ".join(name for name in self.input_specs if name not in tensors)
            if missing:
                raise SignatureError(f"missing input: {missing}")
        rows = -1
        for name, array in tensors.items():
            spec = self.input_specs.get(name) or self.input(name)
            check_tensor(array, spec, self.non_finite)
            if name in self._of_rows:
                count = array.shape[0]
                if rows != count and rows != -1:
                    raise SignatureError(
                        f"inputs disagree on the batch: {rows} rows, but {name!r} has {count}"
                    )
                rows = count
        return self._fixed_rows if rows == -1 else rows


def check_tensor(array: Array, spec: TensorSpec, non_finite: NonFinite) -> None:
    """SignatureError unless the array has the datatype and shape of the spec, and fit values."""
    shape, dtype = array.shape, spec.dtype
    fits = len(shape) == len(spec.shape)
    if fits:
        for want, have in zip(spec.shape, shape, strict=True):
            if want != have and want != -1:
                fits = False
    if not fits:
        raise SignatureError(
            f"input {spec.name!r}: shape {list(shape)} does not fit {list(spec.shape)}"
        )
    if array.dtype != dtype:
        raise SignatureError(f"input {spec.name!r}: {array.dtype} is not {spec.datatype}")
    if not is_finite(array, non_finite):
        raise SignatureError(f"input {spec.name!r}: holds a value that is not finite")


def is_finite(array: Array, non_finite: NonFinite) -> bool:
    """Whether the values are as finite as they have to be.

    >>> values = np.array([1.0, np.nan])
    >>> is_finite(values, "missing"), is_finite(values, "reject")
    (True, False)
    """
    if array.dtype.kind != "f" or non_finite == "allow":
        return True
    # If the squares have a finite sum, so has every value: one pass without a temporary array. Not
    # so for FP16, for which there is no fast product.
    if array.dtype.itemsize > 2 and math.isfinite(np.vdot(array, array)):
        return True
    return not np.isinf(array).any() if non_finite == "missing" else bool(np.isfinite(array).all())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
