"""The transformer that runs in the predictor's process, loaded by its dotted path.

This package does not know `coalmine_transformers`: anything with `inputs`, `preprocess` and
`postprocess` will do.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from coalmine.protocol import Tensors, TensorSpec
from coalmine.serving._errors import ModelLoadError

__all__ = ["Transforming", "load_transformer"]


class Transforming(Protocol):
    """What is asked of a transformer."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors a client sends."""
        ...

    def preprocess(self, tensors: Tensors) -> Tensors:
        """The network's inputs, row by row; ValueError for what cannot be transformed."""
        ...

    def postprocess(self, tensors: Tensors) -> Tensors:
        """What the client gets, from the network's outputs."""
        ...


def load_transformer(dotted: str) -> Transforming:
    """An object of the class at `package.module:Class`; ModelLoadError if there is none."""
    module_name, _, class_name = dotted.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except Exception as error:  # whatever a user's module raises when it is imported
        raise ModelLoadError(f"transformer {dotted}: {type(error).__name__}: {error}") from error
    lacking = [name for name in ("inputs", "preprocess", "postprocess") if not hasattr(made, name)]
    if lacking:
        raise ModelLoadError(f"transformer {dotted}: has no {', '.join(lacking)}")
    return cast(Transforming, made)
