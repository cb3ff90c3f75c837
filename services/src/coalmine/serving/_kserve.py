"""KServe's own application, for what is not inference.

Importing KServe's SDK takes seconds of CPU (it loads the Kubernetes client and pandas), so the
server imports this module when a path needs it for the first time.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import ModelRepository
from kserve import errors as kserve_errors
from kserve.protocol.dataplane import DataPlane as KServeDataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.exceptions import HTTPException

from coalmine.serving._asgi import App, Receive, Scope, Send
from coalmine.serving._predictor import Predictor
from coalmine.serving._repository import Repository

__all__ = ["kserve_app"]


class _Registry(ModelRepository):  # type: ignore[misc] # KServe has no type information
    """KServe's view of our repository, as it is at the moment."""

    def __init__(self, repository: Repository) -> None:
        super().__init__()
        self._repository = repository

    def get_model(self, name: str) -> Predictor | None:
        """What serves this name now."""
        for servable in self._repository.serving():
            if servable.name == name:
                return Predictor.of(servable)
        return None

    def get_models(self) -> dict[str, Predictor]:
        """All that is served."""
        return {made.name: Predictor.of(made) for made in self._repository.serving()}

    async def is_model_ready(self, name: str) -> bool:
        """Whether it is served."""
        return self.get_model(name) is not None


class _NoExplain(KServeDataPlane):  # type: ignore[misc] # KServe has no type information
    """KServe's `explain` echoes the request's headers, credentials too; and there is none."""

    async def explain(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("this model has no explainer")


def kserve_app(repository: Repository) -> App:
    """KServe's application around a repository, its errors in the protocol's form."""
    registry = _Registry(repository)
    app = FastAPI(title="Coalmine model server", docs_url=None, redoc_url=None)
    dataplane = _NoExplain(model_registry=registry)
    extension = ModelRepositoryExtension(model_registry=registry)  # its paths are answered by ours
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
