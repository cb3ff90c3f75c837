"""The contract of a transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np

from coalmine.protocol import Array, Tensors, TensorSpec

__all__ = ["Transformer"]


class Transformer(ABC):
    """Arrays in, arrays out; called for many requests, from many threads: it must be pure.

    The server has checked names, datatypes and shapes against `inputs` before `preprocess` is
    called, and knows that no number is infinite. NaN stands for a missing value. An implementation
    raises ValueError, naming the tensor or column, for what it cannot transform: the client is
    told, with status 400. Any other exception is a fault of the transformer, and status 500.

    One row in is one row out, and a row's result depends on nothing but that row: the server puts
    requests together and takes them apart. `coalmine_transformers.checks` holds a class to this.

    A class is made without arguments, or by `from_artefact` if it was fitted.
    """

    inputs: tuple[TensorSpec, ...]
    """What clients send; the first dimension of every tensor is the batch, -1."""

    model_inputs: tuple[TensorSpec, ...] | None = None
    """What `preprocess` gives; None: not declared. If declared, it is compared with the model when
    both are loaded, and stands in for the metadata of a predictor that has none."""

    model_outputs: tuple[TensorSpec, ...] | None = None
    """What `postprocess` takes; None: whatever the model gives."""

    outputs: tuple[TensorSpec, ...] | None = None
    """What clients get; None: the model's own outputs, names, datatypes and shapes unchanged."""

    @classmethod
    def from_artefact(cls, path: Path) -> Self:
        """A transformer with what was fitted; ValueError says what is wrong with the file.

        Called when there is a `transformer.json` beside the model, or one is named.
        """
        raise ValueError(f"{cls.__name__} is not made from an artefact, but there is {path}")

    @abstractmethod
    def preprocess(self, tensors: Tensors) -> Tensors:
        """The model's inputs for a request; must not change the arrays it is given."""

    def postprocess(self, tensors: Tensors) -> Tensors:
        """The answer for the model's outputs; unchanged unless overridden."""
        return tensors

    def example(self, rows: int) -> Tensors:
        """Inputs of this many rows that `preprocess` takes, to warm up a server and to check with.

        Ones and the text "0" unless overridden; override it where those mean nothing.
        """
        return {spec.name: _ones(spec, rows) for spec in self.inputs}


def _ones(spec: TensorSpec, rows: int) -> Array:
    shape = (rows, *(1 if size == -1 else size for size in spec.shape[1:]))
    if spec.datatype == "BYTES":
        return np.full(shape, b"0", dtype=np.object_)
    return np.ones(shape, dtype=spec.dtype)
