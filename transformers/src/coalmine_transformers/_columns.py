"""Columns of a table with what was fitted for them: from a tensor of values to numbers."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from coalmine.protocol import Array, dtype_of
from coalmine_transformers._artefact import Strict

__all__ = ["Column", "FittedCategorical", "FittedNumeric"]

Name = Annotated[str, StringConstraints(min_length=1)]
_Number = Literal[
    "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "BOOL", "FP16", "FP32", "FP64",
]  # fmt: skip
_Category = Literal[
    "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "BYTES",
]  # fmt: skip
_SHOWN = 10


class FittedNumeric(Strict):
    """Numbers: filled where they are missing, then moved and scaled."""

    kind: Literal["numeric"] = "numeric"
    name: Name
    datatype: _Number
    fill: float | None
    """Stands in for NaN; None: NaN stays, for a model that knows what to make of it."""

    center: float
    scale: Annotated[float, Field(gt=0)]
    indicator: bool = False
    """A second feature, one where the value was missing and else zero."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features this column gives."""
        return (self.name, f"{self.name}_missing") if self.indicator else (self.name,)

    def write(self, values: Array, into: Array) -> None:
        """The features of these values: float64 inside, as they were fitted, then `into`'s."""
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        if self.fill is not None:
            numbers[missing] = self.fill
        with np.errstate(over="ignore", invalid="ignore"):
            into[:, 0] = (numbers - self.center) / self.scale
        if np.isinf(into[:, 0]).any():
            raise ValueError(f"column {self.name!r}: a value is too large")
        if self.indicator:
            into[:, 1] = missing

    def example(self, rows: int) -> Array:
        """Plausible values."""
        numbers = self.center + self.scale * (np.arange(rows) % 7 - 3) / 3
        dtype = dtype_of(self.datatype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            numbers = np.clip(np.round(numbers), limits.min, limits.max)
        return numbers.astype(dtype)


class FittedCategorical(Strict):
    """One of the categories that were seen, as indicators or as its number.

    The empty text stands for a missing value of BYTES, which JSON cannot send as null.
    """

    kind: Literal["categorical"] = "categorical"
    name: Name
    datatype: _Category
    categories: Annotated[tuple[str | int, ...], Field(min_length=1)]
    encoding: Literal["one_hot", "ordinal"]
    unknown: Literal["error", "ignore", "own"]
    """A category never seen is refused; or has no indicator, and -1 as its number; or has an
    indicator of its own, and the number after the last."""

    fill: str | int | None
    """The category that stands in for the empty text; None: it is a category like others."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        kind = str if self.datatype == "BYTES" else int
        if not all(type(category) is kind for category in self.categories):
            raise ValueError(f"`categories` of {self.datatype} must be {kind.__name__}")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("`categories` has one twice")
        if self.fill is not None and self.fill not in self.categories:
            raise ValueError(f"`fill` {self.fill!r} is none of the categories")
        return self

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features this column gives."""
        if self.encoding == "ordinal":
            return (self.name,)
        names = tuple(f"{self.name}={category}" for category in self.categories)
        return (*names, f"{self.name}_unknown") if self.unknown == "own" else names

    @cached_property
    def _codes(self) -> dict[bytes | int, int]:
        codes: dict[bytes | int, int] = {}
        for code, category in enumerate(self.categories):
            codes[category.encode() if isinstance(category, str) else category] = code
        if isinstance(self.fill, str):
            codes[b""] = codes[self.fill.encode()]
        return codes

    def write(self, values: Array, into: Array) -> None:
        """The features of these values; ValueError for an unknown one if that is the policy."""
        found = values.tolist()
        if self.datatype == "BYTES":
            found = [v.encode() if isinstance(v, str) else v for v in found]
        nowhere = len(self.categories) if self.unknown == "own" else -1
        codes = np.array([self._codes.get(value, nowhere) for value in found], dtype=np.int64)
        if self.unknown == "error" and (codes < 0).any():
            self._refuse(found[int(np.argmin(codes))])
        if self.encoding == "ordinal":
            into[:, 0] = codes
            return
        into[:] = 0
        known = np.flatnonzero(codes >= 0)
        into[known, codes[known]] = 1

    def _refuse(self, value: Any) -> None:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        known = ", ".join(repr(category) for category in self.categories[:_SHOWN])
        more = ", ..." if len(self.categories) > _SHOWN else ""
        what = f"column {self.name!r}: unknown category {text!r:.80}"
        raise ValueError(f"{what}; known: {known}{more}")

    def example(self, rows: int) -> Array:
        """Every category in turn."""
        turn = [self.categories[row % len(self.categories)] for row in range(rows)]
        if self.datatype == "BYTES":
            return np.array([str(category).encode() for category in turn], dtype=np.object_)
        return np.array(turn, dtype=dtype_of(self.datatype))


Column = Annotated[FittedNumeric | FittedCategorical, Field(discriminator="kind")]
