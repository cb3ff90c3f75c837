"""Whose mistake it is that a network failed, found out once it has.

A signature says which sizes are free, but neither which of them must be equal nor which numbers an
index may have: that only the network knows, and ONNX Runtime says so while it runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from coalmine.protocol import Tensors

__all__ = ["why_refused"]

_WORDS = 200
_NODE = re.compile(r"while running (\w+) node.*?Status Message: (.*)", re.DOTALL)


def why_refused(
    error: Exception, tensors: Tensors, inputs: Iterable[Any], *, batched: bool = True
) -> str | None:
    """What is wrong with the tensors, for the client; None if it was not they.

    `inputs` are those of the session, whose shapes have a name where a size is free. What is not
    `batched` has first sizes that nobody has compared.
    """
    clash = _clash(tensors, inputs) or _hollow(tensors) or (None if batched else _uneven(tensors))
    if clash is not None:
        return clash
    if not isinstance(error, InvalidArgument):
        return None
    text = str(error).rpartition("INVALID_ARGUMENT : ")[2]
    found = _NODE.search(text)
    if found is not None:
        text = ": ".join(found.groups())
    return f"the network refuses this input: {' '.join(text.split())[:_WORDS]}"


def _clash(tensors: Tensors, inputs: Iterable[Any]) -> str | None:
    """Two inputs that have a size of one name, and not the same."""
    known: dict[str, tuple[str, int]] = {}
    for spec in inputs:
        if (array := tensors.get(spec.name)) is None:
            continue
        for name, size in zip(spec.shape, array.shape, strict=False):
            if not isinstance(name, str):
                continue
            other, expected = known.setdefault(name, (spec.name, size))
            if size != expected:
                return (
                    f"inputs {other!r} and {spec.name!r} have the sizes {expected} and {size} for "
                    f"{name!r}, which the network cannot take"
                )
    return None


def _hollow(tensors: Tensors) -> str | None:
    """A tensor without elements."""
    for name, array in tensors.items():
        if not array.size:
            shape = list(array.shape)
            return f"input {name!r}: shape {shape} has no elements, which the network cannot take"
    return None


def _uneven(tensors: Tensors) -> str | None:
    """Inputs that have other first sizes."""
    sizes = {name: len(array) for name, array in tensors.items() if array.ndim}
    if len(set(sizes.values())) < 2:
        return None
    said = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
    return f"first sizes ({said}) that the network cannot take together"
