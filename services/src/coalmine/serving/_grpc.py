"""The gRPC edge: the inference service as ASGI with response trailers, on the one port.

gRPC over HTTP/2 is a POST whose body is one frame (a flag, a length, a message), answered by one
frame and trailers with the status. pyvoy gives ASGI the trailers; no gRPC library is needed.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from coalmine.protocol import MalformedRequestError
from coalmine.protocol.protobuf import decode_infer, encode_infer, message_class, parse
from coalmine.serving._asgi import ClientGoneError, Headers, Receive, Scope, Send, read_body
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._delivery import Request
from coalmine.serving._encoding import inflate
from coalmine.serving._errors import (
    EncodingError,
    ModelNotReadyError,
    OverloadedError,
    TooManyRequestsError,
    UnknownModelError,
)
from coalmine.serving._ids import request_id
from coalmine.serving._management import Control, check_parameters, index
from coalmine.serving._servable import Servable
from coalmine.serving._statistics import model_statistics
from coalmine.serving._status import grpc_status, http_status, public_message
from coalmine.serving._triton import config_message, served_by

__all__ = ["HEALTH", "SERVICE", "GrpcEdge"]

_log = logging.getLogger("coalmine.serving")
SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = 1, 2
_FRAME = struct.Struct(">BI")
_CONTENT = [
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,gzip,deflate"),
]
_DONE = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_PLAIN = " !#$&'()*+,/:;=?@[]"
_Method = Callable[[bytes], Awaitable[bytes]]


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
        call = _Call(plane, dict(scope["headers"]), infers=method == "ModelInfer")
        if not call.infers:
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
            await self._answer(call.infer, call, receive, send)
        finally:
            plane.release()

    async def _answer(self, method: _Method, call: _Call, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(call.headers, receive, limit=self._plane.limits.max_body)
            call.arrived = self._plane.clock.monotonic()
            message, compressed = _unframe(body)
            if compressed:
                encoding = call.headers.get(b"grpc-encoding", b"").decode("latin-1")
                message = inflate(message, encoding, limit=self._plane.limits.max_body)
            reply = await method(message)
        except ClientGoneError:
            return
        except asyncio.CancelledError as error:  # grpc.aio's way to say that the client left
            if call.infers:
                self._plane.count(call.servable, "grpc", error, call.arrived)
            raise
        except Exception as error:
            await self._refuse(error, call, send)
            return
        await send(_start([*call.identity(), *self._plane.identity(call.servable)], trailers=True))
        await send({"type": "http.response.body", "body": _FRAME.pack(0, len(reply)) + reply})
        await send(_DONE)

    async def _refuse(self, error: Exception, call: _Call, send: Send) -> None:
        if call.infers:
            self._plane.count(call.servable, "grpc", error, call.arrived)
        headers = [*call.identity(), *self._plane.identity(call.servable)]
        if http_status(error) == 500:
            _log.error("request %s failed", headers[0][1].decode(), exc_info=error)
        if isinstance(error, OverloadedError):
            headers.append((b"retry-after", b"%d" % error.retry_after))
        headers.append((b"grpc-status", b"%d" % grpc_status(error)))
        headers.append((b"grpc-message", quote(public_message(error), safe=_PLAIN).encode()))
        # A call without a message is answered by headers alone ("trailers-only").
        await send(_start(headers))
        await send({"type": "http.response.body", "body": b""})

    async def _server_live(self, payload: bytes) -> bytes:
        parse("ServerLiveRequest", payload)
        return _message("ServerLiveResponse", live=True)

    async def _server_ready(self, payload: bytes) -> bytes:
        parse("ServerReadyRequest", payload)
        return _message("ServerReadyResponse", ready=self._plane.ready)

    async def _server_metadata(self, payload: bytes) -> bytes:
        parse("ServerMetadataRequest", payload)
        return _message("ServerMetadataResponse", **self._plane.server_metadata())

    async def _model_ready(self, payload: bytes) -> bytes:
        request = parse("ModelReadyRequest", payload)
        try:
            self._plane.serve(request.name, request.version)
        except (UnknownModelError, ModelNotReadyError):
            return _message("ModelReadyResponse", ready=False)
        return _message("ModelReadyResponse", ready=self._plane.ready)

    async def _model_metadata(self, payload: bytes) -> bytes:
        request = parse("ModelMetadataRequest", payload)
        servable = self._plane.serve(request.name, request.version)
        return _message("ModelMetadataResponse", **self._plane.model_metadata(servable))

    async def _repository_index(self, payload: bytes) -> bytes:
        request = parse("RepositoryIndexRequest", payload)
        await self._plane.repository.discover()
        models = index(self._plane.repository, ready_only=request.ready)
        return _message("RepositoryIndexResponse", models=models)

    async def _load(self, payload: bytes) -> bytes:
        request = parse("RepositoryModelLoadRequest", payload)
        check_parameters(list(request.parameters))
        await self._control.load(request.model_name)
        return _message("RepositoryModelLoadResponse")

    async def _unload(self, payload: bytes) -> bytes:
        request = parse("RepositoryModelUnloadRequest", payload)
        check_parameters(list(request.parameters))
        await self._control.unload(request.model_name)
        return _message("RepositoryModelUnloadResponse")

    async def _model_config(self, payload: bytes) -> bytes:
        request = parse("ModelConfigRequest", payload)
        servable = self._plane.serve(request.name, request.version)
        return _message("ModelConfigResponse", config=config_message(servable))

    async def _model_statistics(self, payload: bytes) -> bytes:
        request = parse("ModelStatisticsRequest", payload)
        served = served_by(self._plane, request.name, request.version)
        entries = [model_statistics(servable) for servable in served]
        return _message("ModelStatisticsResponse", model_stats=entries)

    async def _health(self, payload: bytes) -> bytes:
        """gRPC's own health protocol; a service is the server (""), ours, or a model's name."""
        service = parse("HealthCheckRequest", payload).service
        if service not in ("", SERVICE.strip("/")):
            self._plane.serve(service, None)
        status = _SERVING if self._plane.ready else _NOT_SERVING
        return _message("HealthCheckResponse", status=status)


class _Call:
    """One call on its way through."""

    def __init__(self, plane: Dataplane, headers: dict[bytes, bytes], *, infers: bool) -> None:
        self._plane = plane
        self._id: str | None = None
        self.servable: Servable | None = None
        self.headers = headers
        self.infers = infers
        self.arrived = self._began = plane.clock.monotonic()

    def identity(self) -> Headers:
        """The request's id, as metadata of the response."""
        if self._id is None:
            self._id = request_id(self.headers, None, self._plane.clock)
        return [(b"x-request-id", self._id.encode())]

    async def infer(self, payload: bytes | memoryview) -> bytes:
        """Answer a ModelInferRequest."""
        plane, began = self._plane, self._began
        message = parse("ModelInferRequest", payload)
        identifier = self._id = request_id(self.headers, message.id or None, plane.clock)
        servable = self.servable = plane.serve(message.model_name, message.model_version)
        call = decode_infer(message, servable.signature)
        request = Request(
            call.tensors,
            call.rows,
            size=len(payload),
            protocol="grpc",
            request_id=identifier,
            arrived=self.arrived,
            encode=lambda outputs: encode_infer(
                call,
                outputs,
                model_name=servable.name,
                model_version=servable.version,
                request_id=call.id or identifier,
            ),
            deadline=plane.deadline(began, self.headers, call),
        )
        servable.calls += 1
        try:
            reply: bytes = await plane.infer(servable, request)
        finally:
            servable.calls -= 1
        return reply


def _unframe(body: bytes) -> tuple[bytes, bool]:
    """The message in a gRPC frame, and whether it is compressed; a unary call has exactly one."""
    if len(body) < _FRAME.size:
        raise MalformedRequestError("the body is not a gRPC frame")
    compressed, length = _FRAME.unpack_from(body)
    if compressed > 1:
        raise MalformedRequestError("the body is not a gRPC frame")
    if length != len(body) - _FRAME.size:
        raise MalformedRequestError(f"the frame says {length} bytes, {len(body) - 5} follow")
    return body[_FRAME.size :], bool(compressed)


def _start(headers: Headers, *, trailers: bool = False) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [*_CONTENT, *headers],
        "trailers": trailers,
    }


def _message(name: str, /, **fields: Any) -> bytes:
    serialised: bytes = message_class(name)(**fields).SerializeToString()
    return serialised
