"""The contract of a transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from coalmine.protocol import Tensors, TensorSpec


class Transformer(ABC):
    """Arrays in, arrays out; made without arguments, called for many requests, from many threads.

    The server has checked names, datatypes and shapes against `inputs` before `preprocess` is
    called, and knows that no number is infinite. NaN stands for a missing value. An implementation
    raises ValueError for what it cannot transform: the client is told, with status 400.
    """

    inputs: ClassVar[tuple[TensorSpec, ...]]
    """What clients send; the first dimension of every tensor is the batch."""

    @abstractmethod
    def preprocess(self, tensors: Tensors) -> Tensors:
        """The model's inputs for a request; must not change the arrays it is given."""

    def postprocess(self, tensors: Tensors) -> Tensors:
        """The answer for the model's outputs; unchanged unless overridden."""
        return tensors
