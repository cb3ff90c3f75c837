"""What a kind of model must be able to do to be a candidate, and the rows that it learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from coalmine.retraining.learning._rows import class_indices, feature_matrix, values
from coalmine.retraining.learning._space import Params, Space

if TYPE_CHECKING:
    import pyarrow as pa

FamilyName = Literal["lightgbm", "mlp"]

Report = Callable[[int, float], None]
"""Told the loss so far after a number of rounds; raises to stop a trial that leads nowhere."""


@dataclass(frozen=True, slots=True)
class Material:
    """A table as arrays; rows are named by their place in it."""

    matrix: np.ndarray
    """float32 [rows, features]; NaN is missing."""

    label: np.ndarray
    """int64 [rows]: index of the class; -1 where unknown."""

    recent: np.ndarray
    """bool [rows]: of the world as it is now."""

    group: np.ndarray
    classes: int
    seed: int

    @staticmethod
    def of(
        rows: pa.Table, *, features: tuple[str, ...], classes: tuple[str, ...], seed: int
    ) -> Material:
        """The arrays of a table."""
        return Material(
            matrix=feature_matrix(rows, features),
            label=class_indices(rows, classes),
            recent=values(rows, "origin") == "recent",
            group=values(rows, "group"),
            classes=len(classes),
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class Lesson:
    """Which rows teach, and how much each of them counts."""

    rows: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, slots=True)
class Tried:
    """How a trial ended: its loss, and the rounds after which it was the least."""

    loss: float
    rounds: int
    course: Mapping[int, float] = field(default_factory=dict)
    """The loss after the numbers of rounds that were reported."""


class Model(Protocol):
    """A trained classifier."""

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Class probabilities [rows, classes] of float32 features [rows, features]."""
        ...

    def export(self, path: Path) -> None:
        """Write it as ONNX, with the tensors that `_onnx` names; the same model, the same bytes."""
        ...

    def save(self, directory: Path) -> None:
        """Write it in its library's own form, for people."""
        ...


class Family(Protocol):
    """A kind of model over one table: `lightgbm`, or `mlp` where PyTorch is installed."""

    @property
    def space(self) -> Space:
        """What a search may try."""
        ...

    @property
    def tolerance(self) -> float:
        """Of the parity check: how far the exported probabilities may be from the model's own."""
        ...

    def trial(self, lesson: Lesson, tune: np.ndarray, *, params: Params, report: Report) -> Tried:
        """Learn from a lesson until the loss on the rows `tune` grows."""
        ...

    def fit(self, lesson: Lesson, *, params: Params, rounds: int) -> Model:
        """Learn for a fixed number of rounds."""
        ...
