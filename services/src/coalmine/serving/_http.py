"""The REST edge: V1 `:predict` and V2 `infer`."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Literal, NamedTuple

import orjson

from coalmine.protocol import (
    InferenceCall,
    MalformedRequestError,
    Tensors,
    decode_v1,
    decode_v2,
    encode_v1,
    encode_v2,
)
from coalmine.serving._asgi import (
    REQUEST,
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._delivery import Request
from coalmine.serving._encoding import inflate
from coalmine.serving._errors import OverloadedError, TooManyRequestsError
from coalmine.serving._ids import request_id
from coalmine.serving._servable import Servable
from coalmine.serving._status import http_status, public_message

__all__ = ["HttpEdge", "send_error"]

_log = logging.getLogger("coalmine.serving")
_JSON = (b"content-type", b"application/json")
_AS_JSON: Headers = [_JSON]
_BINARY = (b"content-type", b"application/octet-stream")
_LENGTH = b"inference-header-content-length"
_ROUTE = re.compile(
    r"/v1/models/(?P<v1>[^/]+):predict"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer"
)
#: Routes remembered, of at most so long paths: those of the models that are served are few.
_ROUTES, _PATH = 256, 256


class Route(NamedTuple):
    """An inference route."""

    protocol: Literal["v1", "v2"]
    name: str
    version: str | None


async def send_error(send: Send, error: Exception, headers: Headers) -> None:
    """Answer with an error, in the protocol's form."""
    status = http_status(error)
    extra: Headers = [_JSON]
    if isinstance(error, OverloadedError):
        extra.append((b"retry-after", b"%d" % error.retry_after))
    await respond(send, status, [*extra, *headers], orjson.dumps({"error": public_message(error)}))


class HttpEdge:
    """Answers inference requests in JSON and in the binary tensor extension."""

    def __init__(self, plane: Dataplane) -> None:
        self._plane = plane
        self._routes: dict[str, Route | None] = {}

    def match(self, path: str) -> Route | None:
        """The inference route of a path, if it is one."""
        try:
            return self._routes[path]
        except KeyError:
            pass
        match = _ROUTE.fullmatch(path)
        route = None
        if match is not None:
            v1, v2, version = match.groups()
            route = Route("v2", v2, version) if v1 is None else Route("v1", v1, None)
        if len(path) <= _PATH:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes[path] = route
        return route

    async def __call__(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        plane = self._plane
        call = _Call(plane, route, scope)
        try:
            plane.admit()
        except TooManyRequestsError as error:
            await self._refuse(call, error, send)
            return
        try:
            await respond(send, 200, *await call.answer(receive))
        except ClientGoneError:
            plane.count(call.servable, route.protocol, asyncio.CancelledError(), call.arrived)
        except asyncio.CancelledError as error:
            self._count(call, error)
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # and not the request alone
                raise
        except Exception as error:
            await self._refuse(call, error, send)
        finally:
            plane.release()

    def _count(self, call: _Call, error: BaseException) -> None:
        self._plane.count(
            call.servable,
            call.route.protocol,
            error,
            call.arrived,
            identifier=call.identifier(),
        )

    async def _refuse(self, call: _Call, error: Exception, send: Send) -> None:
        self._count(call, error)
        if http_status(error) == 500:
            _log.error("request %s failed", call.identifier(), exc_info=error)
        headers = [
            (b"x-request-id", call.identifier().encode()),
            *self._plane.identity(call.servable),
        ]
        await send_error(send, error, headers)


class _Call:
    """One request on its way through."""

    __slots__ = ("_headers", "_id", "_plane", "_scope", "arrived", "route", "servable")

    def __init__(self, plane: Dataplane, route: Route, scope: Scope) -> None:
        self._plane = plane
        self._scope = scope
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._id: str | None = None
        self.route = route
        self.servable: Servable | None = None
        self.arrived = plane.clock.monotonic()

    def identifier(self, body_id: str | None = None) -> str:
        """The request's id, settled when first asked for."""
        if self._id is None:
            self._id = request_id(self._headers, body_id, self._plane.clock)
        return self._id

    async def answer(self, receive: Receive) -> tuple[Headers, bytes]:
        """The response's headers and body."""
        plane, headers, began = self._plane, self._headers, self.arrived
        protocol, name, version = self.route
        servable = self.servable = plane.serve(name, version)
        servable.calls += 1  # a version that is replaced meanwhile still answers this request
        try:
            body = await read_body(headers, receive, limit=plane.limits.max_body)
            if (encoding := headers.get(b"content-encoding")) is not None:
                body = inflate(body, encoding.decode("latin-1"), limit=plane.limits.max_body)
            self.arrived = plane.clock.monotonic()
            if protocol == "v1":
                call = decode_v1(body, servable.signature)
            else:
                call = decode_v2(body, servable.signature, json_length=self._json_length())
            identifier = self.identifier(call.id)
            request = Request(
                call.tensors,
                call.rows,
                size=len(body),
                protocol=protocol,
                request_id=identifier,
                arrived=self.arrived,
                encode=_V1Reply(call) if protocol == "v1" else _V2Reply(call, servable, identifier),
                deadline=plane.deadline(began, headers, call),
            )
            self._scope[REQUEST] = request
            kind, reply = await plane.infer(servable, request)
        finally:
            servable.calls -= 1
            self._scope.pop(REQUEST, None)  # which outlives the answer, and must not hold tensors
        return [*kind, (b"x-request-id", identifier.encode()), *servable.identity], reply

    def _json_length(self) -> int | None:
        length = self._headers.get(_LENGTH)
        if length is None:
            return None
        if not length.isdigit() or len(length) > 18:
            raise MalformedRequestError("Inference-Header-Content-Length must be a number of bytes")
        return int(length)


_Reply = tuple[Headers, bytes]


class _V1Reply:
    """Writes the answer to a V1 call."""

    __slots__ = ("_call",)

    def __init__(self, call: InferenceCall) -> None:
        self._call = call

    def __call__(self, outputs: Tensors) -> _Reply:
        call = self._call
        return _AS_JSON, encode_v1(outputs, call.outputs, columnar=call.columnar)


class _V2Reply:
    """Writes the answer to a V2 call."""

    __slots__ = ("_call", "_id", "_servable")

    def __init__(self, call: InferenceCall, servable: Servable, identifier: str) -> None:
        self._call = call
        self._servable = servable
        self._id = identifier

    def __call__(self, outputs: Tensors) -> _Reply:
        call, servable = self._call, self._servable
        reply = encode_v2(
            call,
            outputs,
            model_name=servable.name,
            model_version=servable.version,
            request_id=self._id if call.id is None else call.id,
        )
        if reply.json_length is None:
            return _AS_JSON, reply.body
        return [_BINARY, (_LENGTH, b"%d" % reply.json_length)], reply.body
