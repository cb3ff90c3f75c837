"""A transformer's two steps, the same wherever it runs: what it is given, and what it may give.

What it gives is held to what the model takes and what clients are told. Otherwise the network, or a
predictor elsewhere, would find the fault, each in words of its own, and call it the client's.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from coalmine.protocol import (
    Array,
    NonFinite,
    ProtocolError,
    SignatureError,
    Tensors,
    TensorSpec,
    is_finite,
)
from coalmine.serving._checks import checked_tensors, refusal_of
from coalmine.serving._errors import ModelFailedError, ModelLoadError, WrongOutputError
from coalmine.serving._transform import Transforming, check_growth, row_bytes

__all__ = ["TransformSteps", "example_of", "rows_of"]

_log = logging.getLogger("coalmine.serving")


class TransformSteps:
    """Preprocess to what the model takes, postprocess to what clients are told; from any thread."""

    def __init__(
        self,
        transformer: Transforming,
        *,
        model_inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        non_finite: NonFinite,
        row_by_row: bool = True,
    ) -> None:
        """`row_by_row`: a row for each row is to come of both steps, and of the model between."""
        self._transformer = transformer
        self._model_inputs = model_inputs
        self._outputs = outputs
        self._non_finite = non_finite
        self._row_by_row = row_by_row
        self.row_bytes = row_bytes(model_inputs)
        """Of what is made of one row, as far as it is known."""

    def preprocess(self, tensors: Tensors, *, rows: int) -> Tensors:
        """The model's inputs.

        SignatureError for what cannot be transformed, WrongOutputError if the model does not take
        what comes of it, ModelFailedError if the transformer breaks.
        """
        check_growth(rows, self.row_bytes)
        # Binary tensors are read where they lie, and cannot be written to. Numbers of JSON can be,
        # and so the arrays always are: whoever fills gaps in place is to find that out nowhere.
        own = {n: array if array.flags.writeable else array.copy() for n, array in tensors.items()}
        try:
            with np.errstate(all="ignore"):
                given = self._transformer.preprocess(own)
        except ProtocolError:
            raise
        except ValueError as error:  # the contract of a transformer: the client's mistake
            raise refusal_of(error) from error
        except (Exception, SystemExit) as error:
            raise _broken("preprocess") from error
        features = self._checked("preprocess", given, self._model_inputs, rows)
        for name, array in features.items():
            if not is_finite(array, self._non_finite):
                raise SignatureError(
                    f"these values make {name!r}, which the model takes, not finite"
                )
        return features

    def postprocess(self, predictions: Tensors, *, rows: int) -> Tensors:
        """What clients get. WrongOutputError if they are told otherwise, ModelFailedError."""
        # Copies: it may change its arrays, and they are the record's too.
        own = {name: np.array(array) for name, array in predictions.items()}
        try:
            with np.errstate(all="ignore"):
                given = self._transformer.postprocess(own)
        except (Exception, SystemExit) as error:
            raise _broken("postprocess") from error
        try:
            return self._checked("postprocess", given, self._outputs, rows)
        except WrongOutputError as error:
            if getattr(self._transformer, "outputs", None) is None:
                raise WrongOutputError(
                    f"{error}, the model's own: it declares no `outputs`"
                ) from error
            raise

    def _checked(self, step: str, given: Any, specs: tuple[TensorSpec, ...], rows: int) -> Tensors:
        needed = rows if self._row_by_row else None
        try:
            return checked_tensors(given, specs, rows=needed, what="tensor", surplus=True)
        except WrongOutputError as error:
            _log.error("the transformer's %s: %s", step, error)
            raise WrongOutputError(f"the transformer's {step}: {error}") from error


def example_of(transformer: Any, inputs: tuple[TensorSpec, ...], rows: int) -> Tensors:
    """What a server is warmed up with: the transformer's own example, or ones; ModelLoadError."""
    example = getattr(transformer, "example", None)
    if example is None:
        return {spec.name: _ones(spec, rows) for spec in inputs}
    try:
        made = dict(example(rows))
    except Exception as error:  # whatever a user's class raises
        raise ModelLoadError(
            f"the transformer's example: {type(error).__name__}: {error}"
        ) from error
    return made


def _ones(spec: TensorSpec, rows: int) -> Array:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.shape[:1] == (-1,):
        shape = (rows, *shape[1:])
    if spec.datatype == "BYTES":
        return np.full(shape, b"0", dtype=np.object_)
    return np.ones(shape, dtype=spec.dtype)


def rows_of(tensors: Tensors) -> int:
    """Rows of a request, or of several together."""
    return min((len(array) for array in tensors.values() if array.ndim), default=0)


def _broken(step: str) -> ModelFailedError:
    _log.exception("the transformer's %s failed", step)
    return ModelFailedError("the model failed on this request")
