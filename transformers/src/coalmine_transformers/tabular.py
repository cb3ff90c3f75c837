"""Rows of a table: numbers scaled, gaps filled, categories encoded, as they were in training.

Fit on the training data, save beside the model, and the server does the same to every request::

    columns = [Numeric("age"), Numeric("income", scale="robust", indicator=True),
               Categorical("city", unknown="ignore")]
    transformer = TabularTransformer.fit(columns, training)   # numpy, Arrow or pandas columns
    features = transformer.preprocess(training_tensors)["features"]
    transformer.save(directory / "transformer.json")

What is fitted equals scikit-learn's `SimpleImputer`, `StandardScaler` / `MinMaxScaler` /
`RobustScaler` and `OneHotEncoder` / `OrdinalEncoder` in a `ColumnTransformer`, to float32; a server
needs none of that installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from coalmine.protocol import Array, Tensors, TensorSpec
from coalmine_transformers._artefact import Strict, read, write
from coalmine_transformers._base import Transformer
from coalmine_transformers._columns import Column, FittedCategorical, FittedNumeric
from coalmine_transformers._fitting import Categorical, Numeric, fit

__all__ = ["Categorical", "Numeric", "TabularTransformer"]


class _Artefact(Strict):
    format: Literal["coalmine-tabular"] = "coalmine-tabular"
    version: Literal[1] = 1
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]


class TabularTransformer(Transformer):
    """A tensor of shape [N] per column to `features`: float32 [N, len(feature_names)].

    >>> columns = [Numeric("age"), Categorical("city", unknown="ignore")]
    >>> data = {"age": np.array([20.0, np.nan, 40.0]), "city": np.array(["Bern", "Rome", "Bern"])}
    >>> transformer = TabularTransformer.fit(columns, data)
    >>> transformer.feature_names
    ('age', 'city=Bern', 'city=Rome')
    >>> row = {"age": np.array([30.0]), "city": np.array([b"Oslo"], dtype=object)}
    >>> transformer.preprocess(row)["features"].tolist()
    [[0.0, 0.0, 0.0]]
    """

    inputs: tuple[TensorSpec, ...]
    model_inputs: tuple[TensorSpec, ...]

    def __init__(self, columns: Sequence[FittedNumeric | FittedCategorical]) -> None:
        self.columns = tuple(columns)
        if not self.columns:
            raise ValueError("needs a column at least")
        self.feature_names = tuple(name for column in self.columns for name in column.features)
        for names in ([column.name for column in self.columns], self.feature_names):
            twice = [name for name in names if list(names).count(name) > 1]
            if twice:
                raise ValueError(f"two columns, or their features, are named {twice[0]!r}")
        self.inputs = tuple(TensorSpec(c.name, c.datatype, (-1,)) for c in self.columns)
        self.model_inputs = (TensorSpec("features", "FP32", (-1, len(self.feature_names))),)

    @classmethod
    def fit(cls, columns: Sequence[Numeric | Categorical], data: Any) -> Self:
        """Fit each column to `data[name]`: arrays, Arrow columns or pandas series of one length.

        The datatype that clients send is that of the data: int64 is INT64, text is BYTES. Raises
        ValueError, naming the column, for what cannot be fitted.
        """
        fitted = []
        lengths = set()
        for column in columns:
            try:
                values = data[column.name]
            except (KeyError, IndexError):
                raise ValueError(f"column {column.name!r} is not in the data") from None
            lengths.add(len(values))
            if len(lengths) > 1:
                raise ValueError(f"column {column.name!r}: {len(values)} rows, unlike the others")
            fitted.append(fit(column, values))
        return cls(fitted)

    @classmethod
    def from_artefact(cls, path: Path) -> Self:
        """The transformer that `save` wrote; ValueError names the file and the key."""
        columns = read(path, _Artefact).columns
        try:
            return cls(columns)
        except ValueError as error:
            raise ValueError(f"{path}: columns: {error}") from None

    def save(self, path: Path) -> None:
        """Write the artefact, JSON; `transformer.json` beside the model is where it is looked for.

        The same transformer always gives the same bytes.
        """
        write(path, _Artefact(columns=self.columns))

    def preprocess(self, tensors: Tensors) -> Tensors:
        """The features of every row; ValueError, naming the column, for a value that has none."""
        arrays = [self._values(column, tensors) for column in self.columns]
        rows = len(arrays[0])
        features = np.empty((rows, len(self.feature_names)), np.float32)
        start = 0
        for column, values in zip(self.columns, arrays, strict=True):
            if len(values) != rows:
                raise ValueError(f"column {column.name!r}: {len(values)} rows, not {rows}")
            stop = start + len(column.features)
            column.write(values, features[:, start:stop])
            start = stop
        return {"features": features}

    def example(self, rows: int) -> Tensors:
        """Rows like those it was fitted on."""
        return {column.name: column.example(rows) for column in self.columns}

    @staticmethod
    def _values(column: FittedNumeric | FittedCategorical, tensors: Tensors) -> Array:
        values = tensors.get(column.name)
        if values is None:
            raise ValueError(f"column {column.name!r} is missing")
        numbers = isinstance(column, FittedNumeric) or column.datatype != "BYTES"
        allowed = "biuf" if isinstance(column, FittedNumeric) else "iu" if numbers else "OSU"
        if values.ndim != 1 or values.dtype.kind not in allowed:
            raise ValueError(
                f"column {column.name!r}: {values.dtype} of shape {list(values.shape)} is not "
                f"{column.datatype} of shape [-1]"
            )
        return values
