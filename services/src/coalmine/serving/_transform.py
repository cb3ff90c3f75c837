"""Transformers as the server knows them: loaded by their dotted path, compared with the model.

This package does not know `coalmine_transformers`: anything with `inputs`, `preprocess` and
`postprocess` will do. `model_inputs`, `model_outputs`, `outputs`, `from_artefact` and `example` are
used where a transformer has them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, Protocol, cast

from coalmine.modeldir import TRANSFORMER_FILE
from coalmine.protocol import Signature, SignatureError, Tensors, TensorSpec
from coalmine.serving._errors import ModelLoadError

__all__ = ["Transforming", "check_growth", "client_signature", "load_transformer", "row_bytes"]

#: Bytes that the rows of one request may come to once they are transformed.
_MOST_BYTES = 256 * 1024**2


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


def load_transformer(dotted: str, *, artefact: Path | None = None) -> Transforming:
    """An object of the class at `package.module:Class`; ModelLoadError if there is none.

    `artefact` is the file of what it was fitted with, or a directory that may hold it as
    `transformer.json`; with one, the object is made by the class's `from_artefact`.
    """
    file = _artefact_file(artefact)
    found = _import(dotted)
    try:
        if file is None:
            made = found()
        elif not hasattr(found, "from_artefact"):
            raise ModelLoadError(f"transformer {dotted}: has no from_artefact, but there is {file}")
        else:
            made = found.from_artefact(file)
    except ModelLoadError:
        raise
    except TypeError as error:
        if file is None and hasattr(found, "from_artefact"):
            raise ModelLoadError(
                f"transformer {dotted}: needs what it was fitted with: {TRANSFORMER_FILE} beside "
                f"the model, or --artefact FILE"
            ) from error
        raise ModelLoadError(f"transformer {dotted}: TypeError: {error}") from error
    except ValueError as error:
        raise ModelLoadError(f"transformer {dotted}: {error}") from error
    except Exception as error:  # whatever a user's class raises when it is made
        raise ModelLoadError(f"transformer {dotted}: {type(error).__name__}: {error}") from error
    lacking = [name for name in ("inputs", "preprocess", "postprocess") if not hasattr(made, name)]
    if lacking:
        raise ModelLoadError(f"transformer {dotted}: has no {', '.join(lacking)}")
    for name in ("inputs", "model_inputs", "model_outputs", "outputs"):
        _checked_specs(getattr(made, name, None), f"transformer {dotted}: `{name}`")
    return cast(Transforming, made)


def _artefact_file(artefact: Path | None) -> Path | None:
    if artefact is None:
        return None
    if artefact.is_dir():
        file = artefact / TRANSFORMER_FILE
        return file if file.is_file() else None
    if not artefact.is_file():
        raise ModelLoadError(f"{artefact}: no such artefact of a transformer")
    return artefact


def _import(dotted: str) -> Any:
    module_name, _, class_name = dotted.partition(":")
    if not module_name or not class_name:
        raise ModelLoadError(f"transformer {dotted}: must be package.module:Class")
    # A console script does not look where it is started, as `python -m` does.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # whatever a user's module raises when it is imported
        raise ModelLoadError(f"transformer {dotted}: {type(error).__name__}: {error}") from error


def _checked_specs(specs: Any, what: str) -> None:
    if specs is None:
        return
    sound = isinstance(specs, tuple) and all(isinstance(spec, TensorSpec) for spec in specs)
    if not sound or not specs:
        raise ModelLoadError(f"{what} must be a tuple of TensorSpec")
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ModelLoadError(f"{what}: a name is there twice: {', '.join(names)}")
    if any(spec.shape[:1] != (-1,) for spec in specs):
        raise ModelLoadError(f"{what}: the first dimension of every tensor is the batch, -1")


def client_signature(transformer: Transforming, model: Signature) -> Signature:
    """What clients send and get; ModelLoadError if transformer and model do not fit together."""
    gives = getattr(transformer, "model_inputs", None)
    if gives is not None:
        _agree(gives, model.inputs, "gives", "takes")
    takes = getattr(transformer, "model_outputs", None)
    if takes is not None:
        had = [spec for spec in model.outputs if spec.name in {wanted.name for wanted in takes}]
        _agree(takes, had, "takes", "gives")
    outputs = getattr(transformer, "outputs", None)
    return Signature(tuple(transformer.inputs), model.outputs if outputs is None else outputs)


def row_bytes(specs: Iterable[TensorSpec]) -> int:
    """Bytes of one row of these tensors, as far as their sizes are known.

    >>> row_bytes([TensorSpec("pixels", "FP32", (-1, 3, 224, 224))])
    602112
    """
    return sum(spec.dtype.itemsize * prod(max(n, 1) for n in spec.shape[1:]) for spec in specs)


def check_growth(rows: int, each: int) -> None:
    """SignatureError if so many rows, of so many bytes each, are too many for one request.

    What a client sends is bounded by its bytes; a picture of 70 bytes becomes 600,000 of them.
    """
    if rows * each > _MOST_BYTES:
        raise SignatureError(
            f"{rows} rows come to {rows * each} bytes for the model; send at most "
            f"{_MOST_BYTES // each} in one request"
        )


def _agree(said: Iterable[TensorSpec], found: Iterable[TensorSpec], ours: str, theirs: str) -> None:
    ordered = sorted(said, key=lambda spec: spec.name), sorted(found, key=lambda spec: spec.name)
    if len(ordered[0]) == len(ordered[1]) and all(map(_fits, *ordered)):
        return
    raise ModelLoadError(
        f"the transformer {ours} {_listed(ordered[0])}; the model {theirs} {_listed(ordered[1])}"
    )


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    return (
        (one.name, one.datatype, len(one.shape)) == (other.name, other.datatype, len(other.shape))
    ) and all(a == b or -1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))


def _listed(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in specs) or "nothing of it"
