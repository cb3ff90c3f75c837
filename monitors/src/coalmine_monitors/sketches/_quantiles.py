"""Quantiles of a column of any length, in some kilobytes: a KLL sketch."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Quantiles"]

#: Decides size and error: 2 to 5 kB, and a rank that is wrong by 1.33 % of the rows at most, with
#: 99 % confidence.
_K = 200

Floats = NDArray[np.float64]


class Quantiles:
    """A mergeable summary of one column. Missing and infinite values are left out.

    It chooses at random what it keeps, so that two sketches of the same rows are alike, not equal:
    for what is shown to people. Verdicts are made from `Histograms`.

    >>> sketch = Quantiles()
    >>> sketch.update(np.arange(100_000.0))
    >>> sketch.rows, bool(abs(sketch.at([0.5])[0] - 50_000) < 2_000)
    (100000, True)

    Source: Karnin, Lang and Liberty, "Optimal quantile approximation in streams", 2016.
    """

    def __init__(self, data: bytes | None = None) -> None:
        # As bytes: an object of the library that lives when the process ends has it complain.
        self._data = _kll()(_K).serialize() if data is None else data

    @property
    def rows(self) -> int:
        """Values seen."""
        return int(self._sketch().n)

    def update(self, values: Floats) -> None:
        """Take values [n], many at once."""
        sketch = self._sketch()
        sketch.update(values[np.isfinite(values)])
        self._data = sketch.serialize()

    def merge(self, *others: Quantiles) -> None:
        """Take what other sketches have seen."""
        sketch = self._sketch()
        for other in others:
            sketch.merge(other._sketch())
        self._data = sketch.serialize()

    def at(self, ranks: Sequence[float]) -> Floats:
        """The values [ranks] below which such shares of the rows lie; NaN without rows."""
        sketch = self._sketch()
        if sketch.is_empty():
            return np.full(len(ranks), np.nan)
        return np.asarray(sketch.get_quantiles(list(ranks)), dtype=np.float64)

    def to_text(self) -> str:
        """For JSON; `from_text` is the inverse."""
        return base64.b64encode(self._data).decode()

    @classmethod
    def from_text(cls, text: str) -> Quantiles:
        """The sketch that gave `text`."""
        return cls(base64.b64decode(text))

    def _sketch(self) -> Any:
        return _kll().deserialize(self._data)


def _kll() -> Any:
    # Imported when a reference is made: environments that only judge windows need not have it.
    from datasketches import kll_doubles_sketch

    return kll_doubles_sketch
