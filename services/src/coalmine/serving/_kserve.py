"""KServe's side: the `Predictor`, and KServe's own application for what is not inference.

Importing KServe's SDK takes seconds of CPU (it loads the Kubernetes client and pandas), so nothing
else in this package imports it, and the server does so when a path needs it for the first time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository
from kserve import errors as kserve_errors
from kserve.protocol.dataplane import DataPlane as KServeDataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.exceptions import HTTPException

from coalmine.protocol import (
    Array,
    InferenceCall,
    ProtocolError,
    SignatureError,
    call_from_instances,
    datatype_of,
    from_raw,
    from_values,
    predictions,
)
from coalmine.serving._asgi import App, Receive, Scope, Send
from coalmine.serving._errors import ModelFailedError, OverloadedError
from coalmine.serving._options import ServeOptions
from coalmine.serving._servable import Servable

__all__ = ["Predictor", "kserve_app"]


class Predictor(Model):  # type: ignore[misc] # KServe has no type information
    """A model of ours as a `kserve.Model`: the stock server gives the same answers as ours.

    ::

        predictor = Predictor("ev-battery", "models/3", version="3")
        predictor.load()
        kserve.ModelServer().start([predictor])
    """

    def __init__(
        self,
        name: str,
        model: str | Path,
        *,
        version: str = "1",
        transformer: str | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(name)
        self._options = ServeOptions(
            model=str(model), name=name, version=version, transformer=transformer, threads=threads
        )
        self._servable: Servable | None = None

    @classmethod
    def of(cls, servable: Servable) -> Predictor:
        """A predictor of what is loaded already."""
        predictor = cls(servable.name, "", version=servable.version)
        predictor._servable = servable
        predictor.ready = True
        return predictor

    def load(self) -> bool:
        """Load and warm up the model; ModelLoadError says what is wrong with it."""
        self._servable = Servable.load(self._options)
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        """What clients send."""
        return [_type(spec) for spec in self._loaded().signature.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """What clients get."""
        return [_type(spec) for spec in self._loaded().signature.outputs]

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Answer a V1 (dict) or V2 (InferRequest) request."""
        servable = self._loaded()
        try:
            call = self._call(payload)
            outcome = await servable.infer(call)
        except ProtocolError as error:
            raise kserve_errors.InvalidInput(str(error)) from error
        except OverloadedError as error:
            raise kserve_errors.ModelNotReady(self.name, str(error)) from error
        except ModelFailedError as error:
            raise kserve_errors.InferenceError(str(error)) from error
        outputs = outcome.computed.outputs
        if isinstance(payload, dict):
            return {"predictions": predictions(outputs, call.outputs)}
        return InferResponse(
            response_id=payload.id or "",
            model_name=self.name,
            model_version=servable.version,
            infer_outputs=[
                _output(name, outputs[name], raw=payload.use_binary_outputs)
                for name in call.outputs
            ],
            from_grpc=payload.from_grpc,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )

    def _loaded(self) -> Servable:
        if self._servable is None:
            raise kserve_errors.ModelNotReady(self.name)
        return self._servable

    def _call(self, payload: dict[str, Any] | InferRequest) -> InferenceCall:
        signature = self._loaded().signature
        if isinstance(payload, dict):
            return call_from_instances(payload, signature)
        tensors: dict[str, Array] = {}
        for item in payload.inputs:
            spec = signature.input(item.name)
            if spec.name in tensors:
                raise SignatureError(f"input {spec.name!r} is given more than once")
            if item.datatype != spec.datatype:
                raise SignatureError(f"input {spec.name!r}: {item.datatype} is not {spec.datatype}")
            raw = item._raw_data
            shape = list(item.shape)
            if raw is not None:
                tensors[spec.name] = from_raw(raw, spec, shape)
            else:
                tensors[spec.name] = from_values(_as_json(item.data), spec, shape)
        names = signature.select([output.name for output in payload.request_outputs or ()])
        return InferenceCall(tensors, signature.check(tensors), names, payload.id or None)


def _as_json(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise SignatureError("`data` must be a list")
    return [value.decode() if isinstance(value, bytes) else value for value in data]


def _output(name: str, array: Array, *, raw: bool) -> Any:
    output = InferOutput(name, list(array.shape), datatype_of(array))
    output.set_data_from_numpy(array, binary_data=raw)
    return output


def _type(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


class _ReadOnly(ModelRepositoryExtension):  # type: ignore[misc] # KServe has no type information
    """One server serves one model version for its whole life; its supervisor replaces it."""

    async def load(self, model_name: str) -> None:
        raise NotImplementedError("models are loaded by starting a server for them")

    async def unload(self, model_name: str) -> None:
        raise NotImplementedError("models are unloaded by stopping their server")


class _NoExplain(KServeDataPlane):  # type: ignore[misc] # KServe has no type information
    """KServe's `explain` echoes the request's headers, credentials too; and there is none."""

    async def explain(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("this model has no explainer")


def kserve_app(servable: Servable) -> App:
    """KServe's application around a servable, its errors in the protocol's form."""
    repository = ModelRepository()
    repository.update(Predictor.of(servable))
    app = FastAPI(title="Coalmine model server", docs_url=None, redoc_url=None)
    dataplane = _NoExplain(model_registry=repository)
    extension = _ReadOnly(model_registry=repository)
    register_v1_endpoints(app, dataplane, extension)
    register_v2_endpoints(app, dataplane, extension)
    for kind, status in (
        (kserve_errors.InvalidInput, 400),
        (RequestValidationError, 400),
        (kserve_errors.ModelNotFound, 404),
        (NotImplementedError, 501),
        (kserve_errors.UnsupportedProtocol, 501),
        (kserve_errors.ModelNotReady, 503),
    ):
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _http_exception)
    return _with_patient_receive(cast(App, app))


def _handler(status: int) -> Any:
    async def handle(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=status)

    return handle


async def _http_exception(_: Request, error: Exception) -> JSONResponse:
    failure = cast(HTTPException, error)
    return JSONResponse({"error": failure.detail}, failure.status_code, failure.headers)


def _with_patient_receive(app: App) -> App:
    """After the end of the body ASGI's `receive` waits for the client to leave.

    pyvoy 1.3 returns an empty message at once instead, on which an application that waits spins.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def patient() -> Any:
            nonlocal ended
            if ended:
                await asyncio.Event().wait()
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        await app(scope, patient, send)

    return wrapped
