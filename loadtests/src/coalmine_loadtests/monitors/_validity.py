"""How soon the flag of estimated accuracy goes false when labels mean something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import expit

from coalmine_loadtests.monitors._characteristics import Sizes
from coalmine_loadtests.monitors._detectors import Worker

__all__ = ["validity"]

Floats = NDArray[np.float64]
Truth = Callable[[Floats, float, np.random.Generator], NDArray[np.bool_]]

#: Labelled rows by which the flag has to be false.
_FIRST = (200, 500)
#: Labelled rows of a run on which nothing happens.
_LABELS = 50_000
_REFERENCE = 8_000
_LOSSES = (0.05, 0.1, 0.2)
_BISECTIONS = 20


def _flips(logit: Floats, size: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The class is the other one for a share of all rows."""
    return _drawn(logit, rng) ^ (rng.random(len(logit)) < size)


def _region(logit: Floats, size: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The class is the other one where the model is surest of one class."""
    return _drawn(logit, rng) ^ (logit > 6 * (1 - size))


def _noise(logit: Floats, size: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The features say less than they did."""
    return _drawn(logit * (1 - size), rng)


def _turned(logit: Floats, size: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The boundary between the classes turns: another feature says as much."""
    other = 2 * rng.standard_normal(len(logit))
    angle = size * np.pi / 2
    return _drawn(np.cos(angle) * logit + np.sin(angle) * other, rng)


_CHANGES: dict[str, Truth] = {
    "labels flipped": _flips,
    "flipped in a region": _region,
    "noise": _noise,
    "boundary turned": _turned,
}


def validity(worker: Worker, sizes: Sizes, *, rho: float = 0.6) -> dict[str, dict[str, Any]]:
    """Share of runs whose flag is false after the `_FIRST` labels, by change; false flags before.

    A calibrated model of two classes is right in four rows of five; rows are autocorrelated.
    """
    found: dict[str, dict[str, Any]] = {}
    false = 0
    for run in range(sizes.runs):
        rng = np.random.default_rng([sizes.seed, run, 8])
        false += len(_doubted(worker, _scored(_LABELS, rho, rng), rng, rho=rho))
    found["nothing"] = {"runs": sizes.runs, "false": false, "rows": sizes.runs * _LABELS}
    for name, change in _CHANGES.items():
        for loss, size in _sizes(change):
            noticed = np.zeros(len(_FIRST))
            for run in range(sizes.runs):
                rng = np.random.default_rng([sizes.seed, run, 9])
                logit = _logits(max(_FIRST), rho, rng)
                stream = np.column_stack([expit(logit), change(logit, size, rng)])
                first = min(_doubted(worker, stream, rng, rho=rho), default=max(_FIRST))
                noticed += first < np.array(_FIRST)
            found[f"{name}, {loss:.0%} lost"] = {
                "lost": loss,
                "runs": sizes.runs,
                "labels": list(_FIRST),
                "noticed": (noticed / sizes.runs).tolist(),
            }
    return found


def _sizes(change: Truth) -> Iterator[tuple[float, float]]:
    """Losses of accuracy, and the size of a change that costs as much."""
    logit = 2 * np.random.default_rng(1).standard_normal(50_000)
    right = (logit > 0) == _drawn(logit, np.random.default_rng(2))
    for loss in _LOSSES:
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            size = (low + high) / 2
            truth = change(logit, size, np.random.default_rng(2))
            lost = right.mean() - ((logit > 0) == truth).mean()
            low, high = (size, high) if lost < loss else (low, size)
        yield loss, high


def _doubted(worker: Worker, stream: Floats, rng: np.random.Generator, *, rho: float) -> list[int]:
    """Rows of a stream of scores and truths at which the flag turned false."""
    known = _scored(_REFERENCE, rho, rng)
    answer = worker.ask("doubted", arrays={"reference": known, "stream": stream})
    return list(answer["rows"])


def _scored(rows: int, rho: float, rng: np.random.Generator) -> Floats:
    logit = _logits(rows, rho, rng)
    return np.column_stack([expit(logit), _drawn(logit, rng)])


def _logits(rows: int, rho: float, rng: np.random.Generator) -> Floats:
    noise = rng.standard_normal(rows + 100) * np.sqrt(1 - rho**2)
    return np.asarray(2 * lfilter([1], [1, -rho], noise)[100:])


def _drawn(logit: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    return np.asarray(rng.random(len(logit)) < expit(logit))
