"""The `Predictor`: a model of ours, or of the user's, as a `kserve.Model`.

Importing KServe's SDK takes seconds of CPU (it loads the Kubernetes client and pandas), so only a
user's own predictor and KServe's application (`_kserve`) import this module.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from kserve import InferRequest, InferResponse, Model
from kserve import errors as kserve_errors

from coalmine.protocol import (
    Tensors,
    TensorSpec,
)
from coalmine.serving._kserve_bytes import keep_bytes
from coalmine.serving._kserve_payload import answer_of, as_kserve, call_of, described
from coalmine.serving._kserve_workers import let_workers_start
from coalmine.serving._open import open_predictor
from coalmine.serving._options import ServeOptions
from coalmine.serving._servable import Servable

__all__ = ["Predictor"]


class Predictor(Model):  # type: ignore[misc] # KServe has no type information
    """A model as a `kserve.Model`: KServe's stock server gives the same answers as ours.

    Of your own code, arrays in and arrays out::

        class Mean(Predictor):
            inputs = (TensorSpec("x", "FP32", (-1, 4)),)
            outputs = (TensorSpec("mean", "FP32", (-1,)),)

            def compute(self, tensors):
                return {"mean": tensors["x"].mean(axis=1)}

    `coalmine serve my_model:Mean` serves it; so does KServe::

        mean = Mean("mean")
        mean.load()
        kserve.ModelServer().start([mean])

    `compute` gets arrays that fit `inputs` (checked before), the rows of several requests together
    unless `batchable = False`, and may change them. It returns a dict with an array for each of
    `outputs`, of that dtype and shape. It may be a coroutine (`async def`). A ValueError it raises
    is the client's mistake (400, with its message); any other exception is the model's failure
    (500, the details in the log only). `load`, if there is one, is called once before; it may
    return False for "cannot".

    Of a model directory or file, without a class of your own::

        predictor = Predictor("ev-battery", "models/3", version="3")
    """

    inputs: ClassVar[tuple[TensorSpec, ...]] = ()
    """What clients send: name, datatype and shape of each tensor, the batch (-1) first."""

    outputs: ClassVar[tuple[TensorSpec, ...]] = ()
    """What clients get."""

    batchable: ClassVar[bool] = True
    """Whether the rows of several requests may be computed together."""

    compute: ClassVar[Callable[[Any, Tensors], Any] | None] = None

    _is_coalmine_predictor = True

    def __init__(
        self,
        name: str | None = None,
        model: str | Path | None = None,
        *,
        version: str = "1",
        transformer: str | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(name or _kebab(type(self).__name__))
        keep_bytes()
        self._options = ServeOptions(
            model=str(model or ""),
            name=self.name,
            version=version,
            transformer=transformer,
            threads=threads,
        )
        self._servable: Servable | None = None
        self._loading = False
        self._hosted = False  # true in our server, which runs `compute` itself
        self._opening = threading.Lock()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "load" in cls.__dict__:
            cls.load = _ready_after(cls.load)  # type: ignore[method-assign,assignment]

    @classmethod
    def of(cls, servable: Servable) -> Predictor:
        """A predictor of what is loaded already."""
        predictor = cls(servable.name, "", version=servable.version)
        predictor._servable = servable
        predictor.ready = True
        return predictor

    def load(self) -> bool:
        """Load and warm up the model; ModelLoadError says what is wrong with it."""
        if not (self._loading or self._hosted):
            self._servable = self._open()
            self.ready = True
        return True

    def start(self) -> None:
        """What KServe's server calls before it starts its workers."""
        super().start()
        let_workers_start()

    def get_input_types(self) -> list[dict[str, Any]]:
        """What clients send."""
        return described(self._loaded().signature.inputs)

    def get_output_types(self) -> list[dict[str, Any]]:
        """What clients get."""
        return described(self._loaded().signature.outputs)

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Answer a V1 (dict) or V2 (InferRequest) request."""
        servable = self._loaded()
        grpc = isinstance(payload, InferRequest) and payload.from_grpc
        try:
            call = call_of(payload, servable.signature)
            outcome = await servable.infer(call)
            return answer_of(
                payload,
                call,
                outcome.computed.outputs,
                name=self.name,
                version=servable.version,
            )
        except Exception as error:
            raise as_kserve(error, name=self.name, grpc=grpc) from error

    def __getstate__(self) -> dict[str, Any]:
        # KServe's `--workers` sends the model to its processes: each opens it for itself.
        return {**self.__dict__, "_servable": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        keep_bytes()
        self.__dict__.update(state, _opening=threading.Lock())

    def _open(self) -> Servable:
        if type(self).compute is None:
            return Servable.load(self._options)
        return Servable.of(open_predictor(self, self._options), self._options)

    def _loaded(self) -> Servable:
        if self._servable is None:
            if not self.ready:
                raise kserve_errors.ModelNotReady(self.name)
            with self._opening:
                if self._servable is None:
                    self._servable = self._open()
        return self._servable


def _ready_after(load: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """A user's `load`, then what KServe expects of one: warmed up, and `ready` set."""

    @functools.wraps(load)
    def loaded(self: Predictor) -> bool:
        if self._loading:  # `super().load()` inside another `load`
            return load(self) is not False
        self._loading = True
        try:
            done = load(self) is not False
        finally:
            self._loading = False
        return done and Predictor.load(self)

    return loaded


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
