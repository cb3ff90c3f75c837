"""MLflow's models of the `pyfunc` kind: any Python library behind one function, and a signature.

A column-based signature gives one tensor per column, of shape [-1]; a tensor-based one its tensors.
MLflow and pandas take seconds to import: both are, when such a model is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from coalmine.protocol import (
    Array,
    Signature,
    SignatureError,
    Tensors,
    TensorSpec,
    datatype_of,
)
from coalmine.serving._checks import checked_tensors
from coalmine.serving._errors import ModelLoadError, WrongOutputError

__all__ = ["MLMODEL", "PyfuncModel", "onnx_flavour"]

MLMODEL = "MLmodel"

_log = logging.getLogger("coalmine.serving")

#: MLflow's packages import each other in circles: two threads at once would find half of them.
_IMPORTING = threading.Lock()
_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
}
_FIX = (
    "log the model with one: signature=mlflow.models.infer_signature(inputs, model.predict(inputs))"
)
#: What the only tensor is called where the signature has no name for it.
_INPUT, _OUTPUT = "inputs", "predictions"


def onnx_flavour(directory: Path) -> Path | None:
    """The network of an MLflow model that has the flavour `onnx`; ONNX Runtime runs it directly.

    ModelLoadError for a file `MLmodel` that is not one.
    """
    path = directory / MLMODEL
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        flavours = content["flavors"]
        data = flavours["onnx"]["data"] if "onnx" in flavours else None
        has_function = "python_function" in flavours
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ModelLoadError(f"{path}: not the description of an MLflow model: {error}") from error
    if data is not None:
        return directory / str(data)
    if not has_function:
        known = ", ".join(flavours)
        raise ModelLoadError(f"{path}: has neither the flavour python_function nor onnx: {known}")
    return None


class PyfuncModel:
    """An MLflow model, run through its `predict`, one call at a time."""

    platform = "mlflow_pyfunc"
    batchable = True

    def __init__(self, directory: Path) -> None:
        self.providers = ["python"]
        self._lock = threading.Lock()
        with _IMPORTING, _loading(directory):
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
            import mlflow.pyfunc

            self._model = mlflow.pyfunc.load_model(str(directory))
        signature = self._model.metadata.signature
        if signature is None:
            raise ModelLoadError(f"{directory}: the MLflow model has no signature; {_FIX}")
        if signature.inputs is None or signature.outputs is None:
            lacking = "inputs" if signature.inputs is None else "outputs"
            raise ModelLoadError(f"{directory}: its signature has no {lacking}; {_FIX}")
        if signature.params:
            _log.warning(
                "%s: its parameters have their defaults, no request can set them", directory
            )
        self._by_column = not signature.inputs.is_tensor_spec()
        self._kinds = {
            spec.name: getattr(spec.type, "name", "") if self._by_column else ""
            for spec in signature.inputs.inputs
        }
        self._unnamed = [spec.name for spec in signature.inputs.inputs] == [None]
        self.signature = Signature(
            _specs(directory, "inputs", signature.inputs, unnamed=_INPUT),
            _specs(directory, "outputs", signature.outputs, unnamed=_OUTPUT),
        )

    def run(self, tensors: Tensors) -> Tensors:
        """The model's predictions. SignatureError where it refuses values (a ValueError of it)."""
        rows = next((array.shape[0] for array in tensors.values() if array.ndim), 1)
        try:
            with self._lock:
                answer = self._model.predict(self._feed(tensors))
        except ValueError as error:
            _log.warning("the model refuses an input", exc_info=True)
            reason = (str(error).strip() or "ValueError").splitlines()[0][:200]
            raise SignatureError(f"the model refuses this input: {reason}") from error
        return checked_tensors(self._named(answer), self.signature.outputs, rows=rows)

    def close(self) -> None:
        """Nothing to do: what the model holds goes with the object."""

    def _feed(self, tensors: Tensors) -> Any:
        if self._by_column:
            import pandas as pd

            columns = {
                spec.name: _column(tensors[spec.name], kind=self._kinds.get(spec.name, ""))
                for spec in self.signature.inputs
            }
            if self._unnamed:
                return pd.DataFrame({0: columns[_INPUT]})
            return pd.DataFrame(columns)
        arrays = {spec.name: _texts(tensors[spec.name]) for spec in self.signature.inputs}
        return arrays[_INPUT] if self._unnamed else arrays

    def _named(self, answer: Any) -> dict[str, Array]:
        specs = self.signature.outputs
        if hasattr(answer, "to_frame") and not hasattr(answer, "columns"):  # a Series
            answer = answer.to_numpy()
        if hasattr(answer, "columns"):
            frame = answer
            if len(specs) == 1 and len(frame.columns) != 1:
                return {specs[0].name: _as_declared(frame.to_numpy(), specs[0])}
            if len(specs) == len(frame.columns):
                names = [str(name) for name in frame.columns]
                wanted = [spec.name for spec in specs]
                # By position, if a model names its columns otherwise than its signature does.
                order = map(names.index, wanted) if set(names) == set(wanted) else range(len(specs))
                return {
                    spec.name: _as_declared(frame.iloc[:, column].to_numpy(), spec)
                    for spec, column in zip(specs, order, strict=True)
                }
            raise WrongOutputError(
                f"returned {len(frame.columns)} columns; its signature has {len(specs)}"
            )
        if isinstance(answer, Mapping):
            known = {spec.name: spec for spec in specs}
            return {
                str(name): _as_declared(value, known[name]) if name in known else value
                for name, value in answer.items()
            }
        values = np.asarray(answer)
        if len(specs) > 1 and values.ndim == 2 and values.shape[1] == len(specs):
            return {spec.name: _as_declared(values[:, n], spec) for n, spec in enumerate(specs)}
        if len(specs) > 1:
            raise WrongOutputError(
                f"returned one array {list(values.shape)}; its signature has {len(specs)} outputs"
            )
        return {specs[0].name: _as_declared(values, specs[0])}


@contextlib.contextmanager
def _loading(directory: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] in ("mlflow", "pandas"):
            raise ModelLoadError(
                f"{directory}: an MLflow model needs `pip install 'coalmine[mlflow]'` ({error})"
            ) from error
        raise ModelLoadError(
            f"{directory}: the model needs {missing!r}: "
            f"pip install -r {directory / 'requirements.txt'}"
        ) from error
    except Exception as error:  # whatever the library behind the model raises
        _log.exception("%s cannot be loaded", directory)
        raise ModelLoadError(
            f"{directory}: MLflow cannot load it: {type(error).__name__}: {error}"
        ) from error


def _specs(directory: Path, side: str, schema: Any, *, unnamed: str) -> tuple[TensorSpec, ...]:
    specs = []
    for number, entry in enumerate(schema.inputs):
        name = entry.name or (unnamed if len(schema.inputs) == 1 else f"{unnamed}_{number}")
        if schema.is_tensor_spec():
            try:
                datatype = datatype_of(np.empty(0, entry.type))
            except ValueError as error:
                raise ModelLoadError(f"{directory}: {side}: {name!r}: {error}") from error
            specs.append(TensorSpec(str(name), datatype, tuple(int(n) for n in entry.shape)))
            continue
        kind = getattr(entry.type, "name", None)
        if kind not in _DATATYPES:
            raise ModelLoadError(
                f"{directory}: {side}: column {name!r} is a {kind or entry.type}, which the "
                f"inference protocol cannot carry; allowed: {', '.join(_DATATYPES)}"
            )
        specs.append(TensorSpec(str(name), _DATATYPES[kind], (-1,)))
    return tuple(specs)


def _column(array: Array, *, kind: str) -> Any:
    return array if kind == "binary" else _texts(array)


def _texts(array: Array) -> Array:
    if array.dtype.kind != "O":
        return array
    try:
        texts = [value.decode() for value in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise SignatureError("BYTES that are not UTF-8 text") from None
    return np.array(texts, dtype=np.object_).reshape(array.shape)


def _as_declared(value: Any, spec: TensorSpec) -> Array:
    """The values in the declared dtype, where that loses nothing of their kind."""
    array = np.asarray(value)
    if spec.datatype == "BYTES":
        return array.astype(np.object_)
    if array.ndim == len(spec.shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]  # one column is a vector to the signature
    if array.dtype.kind == "O" or not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
        return array
    return array.astype(spec.dtype)
