"""alibi-detect itself: imported late and quietly, and seeded whenever it draws."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

__all__ = ["backends", "load_class", "load_saved", "seeded"]

#: It draws from the generators of the process, so that only one detector may draw at a time.
_DRAWING = threading.RLock()


def backends() -> tuple[str, ...]:
    """The frameworks that are installed here, in alibi-detect's names, the preferred one first."""
    return tuple(
        name
        for name, packages in (
            ("tensorflow", ("tensorflow", "tensorflow_probability", "tf_keras")),
            ("pytorch", ("torch",)),
        )
        if all(importlib.util.find_spec(package) for package in packages)
    )


def load_class(module: str, name: str) -> Any:
    """A class of alibi-detect."""
    with _quiet():
        return getattr(importlib.import_module(module), name)


def load_saved(directory: str) -> Any:
    """A detector that `save_detector` wrote. Runs the code in it."""
    with _quiet():
        return importlib.import_module("alibi_detect.saving").load_detector(directory)


@contextmanager
def seeded(seed: int, *, window: int) -> Iterator[None]:
    """A block that is alone in drawing random numbers, always the same for a seed and a window.

    Window 0 is the making of the detector.
    """
    number = (seed * 1_000_003 + window) % 2**32
    with _DRAWING, _quiet(), mock.patch.object(np.random, "binomial", _clipped_binomial):
        random.seed(number)
        np.random.seed(number)
        if "tf_keras" in sys.modules:
            sys.modules["tf_keras"].utils.set_random_seed(number)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(number)
        yield


_binomial = np.random.binomial


def _clipped_binomial(n: Any, p: Any, size: Any = None) -> Any:
    """numpy's, for chances that rounding has brought out of [0, 1].

    FETDriftOnline keeps a share of the streams that lie on a threshold; where those below it are
    more than the wanted quantile already, its share is negative: none is to be kept.
    """
    return _binomial(n, np.clip(p, 0.0, 1.0), size)


@contextmanager
def _quiet() -> Iterator[None]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
