"""Fitting: from columns as they are wished for, and data, to columns with their numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

import numpy as np

from coalmine.protocol import Array, datatype_of
from coalmine_transformers._columns import FittedCategorical, FittedNumeric

__all__ = ["Categorical", "Numeric", "fit"]

_ENCODINGS = ("one_hot", "ordinal")
_UNKNOWN = ("error", "ignore", "own")


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
        values = _as_array(data)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"needs a value per row, not shape {values.shape}")
        if isinstance(column, Numeric):
            return _fit_numeric(column, values)
        return _fit_categorical(column, values)
    except ValueError as error:
        raise ValueError(f"column {column.name!r}: {error}") from None


def _as_array(data: Any) -> Array:
    if hasattr(data, "combine_chunks"):  # of Arrow
        data = data.combine_chunks()
    if hasattr(data, "dictionary_decode"):  # numpy is given the last category for a null of these
        data = data.dictionary_decode()
    if isinstance(data, np.ma.MaskedArray):  # else what is masked counts
        gaps, data = np.ma.getmaskarray(data), np.ma.getdata(data).astype(np.object_)
        data[gaps] = None
    values = np.asarray(data)
    if values.dtype.kind in "SU" and isinstance(data, list | tuple):
        values = np.array(data, dtype=np.object_)  # numpy has made text of what is none, NaN say
    return values


def _is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA and NaT, which are neither."""
    return (
        value is None
        or (isinstance(value, float) and np.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _with_gaps(values: Array) -> Array:
    """Numbers and gaps, which numpy keeps as objects, as float64; others as they are."""
    found = values.tolist()
    if not all(isinstance(value, Real | Decimal) or _is_missing(value) for value in found):
        return values
    return np.array([np.nan if _is_missing(value) else float(value) for value in found])


def _fit_numeric(column: Numeric, values: Array) -> FittedNumeric:
    if values.dtype.kind == "O":
        values = _with_gaps(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{values.dtype} is not numbers; text needs Categorical")
    if values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        raise ValueError("holds infinity")
    if np.isnan(numbers).all():
        raise ValueError("every value is missing")
    with np.errstate(all="ignore"):
        fill = _filling(column.fill, numbers)
        if fill is not None:
            # Filled first and scaled then, so that the numbers are those of a pipeline of the two.
            numbers = np.where(np.isnan(numbers), fill, numbers)
        center, scale = _scaling(column.scale, numbers[~np.isnan(numbers)])
    if not (np.isfinite(center) and np.isfinite(scale)):
        raise ValueError("values so large that their mean or their range is infinite")
    return FittedNumeric(
        name=column.name,
        datatype=datatype_of(values),  # type: ignore[arg-type] # pydantic checks it
        fill=fill,
        center=center,
        scale=scale,
        indicator=column.indicator,
    )


def _filling(how: str | float | None, numbers: Array) -> float | None:
    if how is None:
        return None
    if how == "median":
        return float(np.nanmedian(numbers))
    if how == "mean":
        return float(np.nanmean(numbers))
    if isinstance(how, str) or not np.isfinite(how):
        raise ValueError(f"fill {how!r}; allowed: median, mean, a finite number, None")
    return float(how)


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
    for key, allowed in (("encoding", _ENCODINGS), ("unknown", _UNKNOWN)):
        if getattr(column, key) not in allowed:
            raise ValueError(f"{key} {getattr(column, key)!r}; allowed: {', '.join(allowed)}")
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
        seen.add(_text(fill))
    return FittedCategorical(
        name=column.name,
        datatype=datatype,  # type: ignore[arg-type] # pydantic checks it
        categories=tuple(sorted(seen)),
        encoding=column.encoding,
        unknown=column.unknown,
        fill=fill,
    )


def _text(value: Any) -> str:
    if _is_missing(value):
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is neither text nor one of integers without gaps")
    value.encode()  # half a surrogate pair is no text that a client could send
    return value
