"""A model that is a Python class of the user's: found by its dotted path, checked, and run.

The class is a `coalmine.serving.Predictor` with a `compute` of its own. This module does not import
KServe, which takes seconds: the user's module has done so when there is a class to look at.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import re
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Protocol, cast

import numpy as np

from coalmine.protocol import (
    Signature,
    Tensors,
    TensorSpec,
)
from coalmine.serving._checks import checked_tensors, refusal_of
from coalmine.serving._errors import ModelLoadError, WrongOutputError

__all__ = ["Computing", "PythonModel", "is_dotted", "load_predictor"]

_log = logging.getLogger("coalmine.serving")

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
#: `file:model` looks like a dotted path, and is none.
_SCHEMES = ("file", "models", "runs", "s3", "gs", "hf", "http", "https")
_FORM = 'a tuple of tensors, the batch first: (TensorSpec("x", "FP32", (-1, 4)),)'


class Computing(Protocol):
    """What is asked of a user's predictor."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool

    def compute(self, tensors: Tensors) -> Any:
        """The outputs by name, or a coroutine that returns them."""
        ...


def is_dotted(model: str) -> bool:
    """Whether this is `package.module:Class` and not a path or a URI.

    >>> is_dotted("my.models:Mean"), is_dotted("models:/mean/3"), is_dotted("model.onnx")
    (True, False, False)
    """
    return bool(_DOTTED.fullmatch(model)) and model.partition(":")[0] not in _SCHEMES


def load_predictor(dotted: str, *, name: str | None = None) -> Any:
    """An object of the class at `package.module:Class`, loaded; ModelLoadError says what is wrong.

    The current directory is searched too, as `python -m` does.
    """
    module_name, _, class_name = dotted.partition(":")
    module = _module(module_name)
    found = getattr(module, class_name, None)
    if found is None:
        raise ModelLoadError(f"{dotted}: the module has no {class_name}{_classes_in(module)}")
    if not (isinstance(found, type) and hasattr(found, "_is_coalmine_predictor")):
        raise ModelLoadError(
            f"{dotted}: not a subclass of coalmine.serving.Predictor{_classes_in(module)}"
        )
    try:
        made = found(name) if _takes_a_name(found) else found()
        made._hosted = True
        loaded = made.load()
    except ModelLoadError:
        raise
    except Exception as error:  # whatever a user's class raises
        _log.exception("%s cannot be loaded", dotted)
        raise ModelLoadError(f"{dotted}: {type(error).__name__}: {error}") from error
    if loaded is False:
        raise ModelLoadError(f"{dotted}: load() returned False")
    return made


class PythonModel:
    """A predictor's `compute` as a Runnable that keeps to its signature.

    ModelLoadError for a class without a `compute`, or whose `inputs` or `outputs` are malformed.
    """

    platform = "python"

    def __init__(self, predictor: Computing) -> None:
        kind = type(predictor).__name__
        if type(predictor).compute is None:
            raise ModelLoadError(f"{kind}: has no compute(self, tensors)")
        self.signature = Signature(
            _specs(kind, "inputs", predictor.inputs), _specs(kind, "outputs", predictor.outputs)
        )
        self.providers = ["python"]
        self.batchable = bool(predictor.batchable)
        self._of_rows = [s.name for s in self.signature.inputs if s.shape[:1] == (-1,)][:1]
        self._kind = kind
        self._predictor = predictor
        self._loop = _Loop() if inspect.iscoroutinefunction(predictor.compute) else None

    def run(self, tensors: Tensors) -> Tensors:
        """What `compute` returns; a ValueError of it is the client's mistake, a SignatureError.

        WrongOutputError if it does not return what `outputs` declares.
        """
        try:
            # Copies: `compute` may change its arrays, which are the request's and the record's too.
            answer = self._predictor.compute({name: np.array(a) for name, a in tensors.items()})
            if self._loop is not None:
                answer = self._loop.run(answer)
        except ValueError as error:
            raise refusal_of(error) from error
        rows = next((len(tensors[name]) for name in self._of_rows), None)
        try:
            return checked_tensors(
                answer, self.signature.outputs, rows=rows if self.batchable else None
            )
        except WrongOutputError as error:
            _log.error("%s.compute: %s", self._kind, error)
            raise

    def close(self) -> None:
        """Stop the event loop of an async `compute`, and tell the predictor (KServe's `stop`)."""
        if self._loop is not None:
            self._loop.close()
        stop = getattr(self._predictor, "stop", None)
        if callable(stop):
            stop()


class _Loop:
    """An event loop in a thread of its own, for predictors whose `compute` is a coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        # The runner cancels what still computes when it ends, so that nobody waits for it for ever.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stop.wait())


def _module(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModelLoadError(
                f"no module {error.name!r} in {here} or among the installed packages"
            ) from error
        raise ModelLoadError(f"{name}: needs {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever a user's module raises when it is imported
        _log.exception("%s cannot be imported", name)
        raise ModelLoadError(f"{name}: {type(error).__name__}: {error}") from error


def _classes_in(module: Any) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and hasattr(value, "_is_coalmine_predictor")
        and value.__module__ == module.__name__
    ]
    return f"; the module's predictors: {', '.join(names)}" if names else ""


def _takes_a_name(kind: type) -> bool:
    try:
        inspect.signature(kind).bind("name")
    except TypeError:
        return False
    return True


def _specs(kind: str, attribute: str, value: object) -> tuple[TensorSpec, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ModelLoadError(f"{kind}.{attribute}: missing; needs {_FORM}")
    specs = cast(tuple[TensorSpec, ...], tuple(value))
    for spec in specs:
        shape = getattr(spec, "shape", None)
        if (
            not isinstance(spec, TensorSpec)
            or not isinstance(spec.name, str)
            or not spec.name
            or not isinstance(shape, tuple)
            or any(not isinstance(size, int) or size < -1 for size in shape)
        ):
            raise ModelLoadError(f"{kind}.{attribute}: {spec!r} does not fit; needs {_FORM}")
    names = [spec.name for spec in specs]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ModelLoadError(f"{kind}.{attribute}: {', '.join(sorted(doubled))} is there twice")
    return specs
