"""The gRPC edge: the inference service as ASGI with response trailers, on the one port.

gRPC over HTTP/2 is a POST whose body is one frame (a flag, a length, a message), answered by one
frame and trailers with the status. pyvoy gives ASGI the trailers; no gRPC library is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from coalmine.protocol.protobuf import message_class, parse
from coalmine.serving._asgi import ClientGoneError, Headers, Receive, Scope, Send, read_body
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._errors import (
    EncodingError,
    ModelNotReadyError,
    TooManyRequestsError,
    UnknownModelError,
)
from coalmine.serving._grpc_call import CONTENT, FRAME, GrpcCall
from coalmine.serving._management import Control, check_parameters, index
from coalmine.serving._statistics import model_statistics
from coalmine.serving._triton import config_message, served_by

__all__ = ["HEALTH", "INFER", "SERVICE", "GrpcEdge"]

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
HEALTH = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = 1, 2
_DONE = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_Method = Callable[[bytes | memoryview], Awaitable[bytes]]


class GrpcEdge:
    """Answers the inference service's unary calls."""

    def __init__(self, plane: Dataplane, control: Control) -> None:
        self._plane = plane
        self._control = control
        self._methods: dict[str, _Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            HEALTH: self._health,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        plane = self._plane
        method = scope["path"].removeprefix(SERVICE)
        infers = method == "ModelInfer"
        call = GrpcCall(plane, dict(scope["headers"]), infers=infers, began=plane.clock.monotonic())
        if not infers:
            if (known := self._methods.get(method)) is not None:
                await self._answer(known, call, receive, send)
            else:  # at once: the messages of a stream need not end
                await self._refuse(EncodingError("this method is not implemented"), call, send)
            return
        try:
            plane.admit()
        except TooManyRequestsError as error:
            await self._refuse(error, call, send)
            return
        try:
            await self._answer(partial(self._infer, call), call, receive, send)
        finally:
            plane.release()

    async def _answer(self, method: _Method, call: GrpcCall, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(
                call.headers,
                receive,
                limit=self._plane.limits.max_body,
                arriving=self._plane.arriving,
            )
            reply = await method(call.message(body))
        except ClientGoneError:
            call.count(asyncio.CancelledError())
            return
        except asyncio.CancelledError as error:  # the client left
            call.count(error)
            raise
        except Exception as error:
            await self._refuse(error, call, send)
            return
        await send(_start([*CONTENT, *call.identity()], trailers=True))
        await send({"type": "http.response.body", "body": FRAME.pack(0, len(reply)) + reply})
        await send(_DONE)

    async def _infer(self, call: GrpcCall, payload: bytes | memoryview) -> bytes:
        servable, request = call.prepare(payload)
        servable.calls += 1
        try:
            reply: bytes = await self._plane.infer(servable, request)
        finally:
            servable.calls -= 1
        return reply

    async def _refuse(self, error: Exception, call: GrpcCall, send: Send) -> None:
        # A call without a message is answered by headers alone ("trailers-only").
        await send(_start(call.refused(error)))
        await send({"type": "http.response.body", "body": b""})

    async def _server_live(self, payload: bytes | memoryview) -> bytes:
        parse("ServerLiveRequest", payload)
        return _message("ServerLiveResponse", live=True)

    async def _server_ready(self, payload: bytes | memoryview) -> bytes:
        parse("ServerReadyRequest", payload)
        return _message("ServerReadyResponse", ready=self._plane.ready)

    async def _server_metadata(self, payload: bytes | memoryview) -> bytes:
        parse("ServerMetadataRequest", payload)
        return _message("ServerMetadataResponse", **self._plane.server_metadata())

    async def _model_ready(self, payload: bytes | memoryview) -> bytes:
        request = parse("ModelReadyRequest", payload)
        try:
            self._plane.serve(request.name, request.version)
        except (UnknownModelError, ModelNotReadyError):
            return _message("ModelReadyResponse", ready=False)
        return _message("ModelReadyResponse", ready=self._plane.ready)

    async def _model_metadata(self, payload: bytes | memoryview) -> bytes:
        request = parse("ModelMetadataRequest", payload)
        servable = self._plane.serve(request.name, request.version)
        return _message("ModelMetadataResponse", **self._plane.model_metadata(servable))

    async def _repository_index(self, payload: bytes | memoryview) -> bytes:
        request = parse("RepositoryIndexRequest", payload)
        await self._plane.repository.discover()
        models = index(self._plane.repository, ready_only=request.ready)
        return _message("RepositoryIndexResponse", models=models)

    async def _load(self, payload: bytes | memoryview) -> bytes:
        request = parse("RepositoryModelLoadRequest", payload)
        check_parameters(list(request.parameters))
        await self._control.load(request.model_name)
        return _message("RepositoryModelLoadResponse")

    async def _unload(self, payload: bytes | memoryview) -> bytes:
        request = parse("RepositoryModelUnloadRequest", payload)
        check_parameters(list(request.parameters))
        await self._control.unload(request.model_name)
        return _message("RepositoryModelUnloadResponse")

    async def _model_config(self, payload: bytes | memoryview) -> bytes:
        request = parse("ModelConfigRequest", payload)
        servable = self._plane.serve(request.name, request.version)
        return _message("ModelConfigResponse", config=config_message(servable))

    async def _model_statistics(self, payload: bytes | memoryview) -> bytes:
        request = parse("ModelStatisticsRequest", payload)
        served = served_by(self._plane, request.name, request.version)
        entries = [model_statistics(servable) for servable in served]
        return _message("ModelStatisticsResponse", model_stats=entries)

    async def _health(self, payload: bytes | memoryview) -> bytes:
        """gRPC's own health protocol; a service is the server (""), ours, or a model's name."""
        service = parse("HealthCheckRequest", payload).service
        if service not in ("", SERVICE.strip("/")):
            self._plane.serve(service, None)
        status = _SERVING if self._plane.ready else _NOT_SERVING
        return _message("HealthCheckResponse", status=status)


def _start(headers: Headers, *, trailers: bool = False) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": headers,
        "trailers": trailers,
    }


def _message(name: str, /, **fields: Any) -> bytes:
    serialised: bytes = message_class(name)(**fields).SerializeToString()
    return serialised
