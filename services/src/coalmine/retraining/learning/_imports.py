"""Keeping a step's imports short."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ABSENT = frozenset({"pandas", "sklearn", "matplotlib"})


class _Absent:
    """A finder that comes first and says that the libraries are not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in _ABSENT:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


@contextmanager
def without_data_frames() -> Iterator[None]:
    """Hide, for the body, what others import only in case they meet its types.

    Arrow, LightGBM and MLflow import pandas, and LightGBM scikit-learn too, if they are installed:
    seconds in every step, which is a process of its own and works with arrays. What is imported
    already stays. Only for a process with one thread: others would find the libraries missing too.
    """
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)
