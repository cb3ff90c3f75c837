"""Fitting: from columns as they are wished for, and data, to columns with their numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coalmine.protocol import Array, datatype_of
from coalmine_transformers._columns import FittedCategorical, FittedNumeric

__all__ = ["Categorical", "Numeric", "fit"]


@dataclass(frozen=True, slots=True)
class Numeric:
    """A column of numbers, to be fitted. Missing is NaN, or null in Arrow."""

    name: str
    scale: Literal["standard", "minmax", "robust"] | None = "standard"
    """`standard`: to mean 0 and deviation 1; `minmax`: to 0 and 1; `robust`: to median 0 and an
    interquartile range of 1. A column that is constant is only moved. None: as it is."""

    fill: Literal["median", "mean"] | float | None = "median"
    """What stands in for a missing value; None: nothing, NaN reaches the model."""

    indicator: bool = False
    """Another feature that says where a value was missing."""


@dataclass(frozen=True, slots=True)
class Categorical:
    """A column of text or of integers that only name things, to be fitted.

    Missing text is empty, None or NaN.
    """

    name: str
    encoding: Literal["one_hot", "ordinal"] = "one_hot"
    """A feature per category, in sorted order; or one, the category's place in that order."""

    unknown: Literal["error", "ignore", "own"] = "error"
    """A category not seen in fitting: the request is refused; or it has no indicator (as a number
    it is -1); or all of them share an indicator (a number) of their own."""

    fill: str | int | None = None
    """What stands in for missing text: a category, or "most_frequent"; None: missing is itself a
    category, if there was one in fitting, and else unknown."""


def fit(column: Numeric | Categorical, data: Any) -> FittedNumeric | FittedCategorical:
    """The column with its numbers; ValueError, naming it, for data that it cannot be fitted to."""
    try:
        values = np.asarray(data)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"needs a value per row, not shape {values.shape}")
        if isinstance(column, Numeric):
            return _fit_numeric(column, values)
        return _fit_categorical(column, values)
    except ValueError as error:
        raise ValueError(f"column {column.name!r}: {error}") from None


def _fit_numeric(column: Numeric, values: Array) -> FittedNumeric:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{values.dtype} is not numbers; text needs Categorical")
    if values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        raise ValueError("holds infinity")
    if np.isnan(numbers).all():
        raise ValueError("every value is missing")
    fill: float | None
    if column.fill == "median":
        fill = float(np.nanmedian(numbers))
    elif column.fill == "mean":
        fill = float(np.nanmean(numbers))
    else:
        fill = None if column.fill is None else float(column.fill)
    if fill is not None:
        # Filled first and scaled then, so that the numbers are those of a pipeline of the two.
        numbers = np.where(np.isnan(numbers), fill, numbers)
    center, scale = _scaling(column.scale, numbers[~np.isnan(numbers)])
    return FittedNumeric(
        name=column.name,
        datatype=datatype_of(values),  # type: ignore[arg-type] # pydantic checks it
        fill=fill,
        center=center,
        scale=scale,
        indicator=column.indicator,
    )


def _scaling(how: str | None, numbers: Array) -> tuple[float, float]:
    if how is None:
        return 0.0, 1.0
    if how == "minmax":
        center, scale = numbers.min(), np.ptp(numbers)
    elif how == "robust":
        low, center, high = np.percentile(numbers, (25, 50, 75))
        scale = high - low
    elif how == "standard":
        center, scale = numbers.mean(), numbers.std()
    else:
        raise ValueError(f"scale {how!r}; allowed: standard, minmax, robust, None")
    # A deviation as small as the rounding of its mean is that of a constant.
    if scale <= 10 * np.finfo(np.float64).eps * max(abs(center), 1e-300):
        scale = 1.0
    return float(center), float(scale)


def _fit_categorical(column: Categorical, values: Array) -> FittedCategorical:
    found: list[Any]
    if values.dtype.kind in "iu":
        datatype, found = datatype_of(values), values.tolist()
    elif values.dtype.kind in "OSU":
        datatype, found = "BYTES", [_text(value) for value in values.tolist()]
    else:
        raise ValueError(f"{values.dtype} is neither text nor integers; numbers need Numeric")
    present = Counter(value for value in found if value != "")
    if not present:
        raise ValueError("every value is missing")
    fill = column.fill
    if fill == "most_frequent":
        fill = min(present, key=lambda value: (-present[value], value))
    seen = set(found if fill is None else present)
    if fill is not None:
        if datatype != "BYTES":
            raise ValueError("`fill` is for text: an integer is never missing")
        seen.add(fill)
    return FittedCategorical(
        name=column.name,
        datatype=datatype,  # type: ignore[arg-type] # pydantic checks it
        categories=tuple(sorted(seen)),
        encoding=column.encoding,
        unknown=column.unknown,
        fill=fill,
    )


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is neither text nor an integer")
    return value
