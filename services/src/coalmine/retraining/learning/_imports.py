"""Keeping a step's imports short."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Absent:
    """A finder that comes first and says that some libraries are not installed."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Hide, for the body, libraries that others import only in case they meet them.

    What is imported already stays. Only for a process with one thread: others would find the
    libraries missing too.
    """
    absent = _Absent(frozenset(names))
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


@contextmanager
def without_data_frames() -> Iterator[None]:
    """Hide pandas and what comes with it.

    Arrow, LightGBM and MLflow import pandas, and LightGBM scikit-learn too, if they are installed:
    seconds in every step, which is a process of its own and works with arrays.
    """
    with hidden("pandas", "sklearn", "matplotlib"):
        yield


@contextmanager
def nothing_hidden() -> Iterator[None]:
    """Undo `hidden` for the body: PyTorch looks around in a way that a hidden library breaks."""
    finders = list(sys.meta_path)
    sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, _Absent)]
    try:
        yield
    finally:
        sys.meta_path[:] = finders
