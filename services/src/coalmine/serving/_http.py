"""The REST edge: V1 `:predict` and V2 `infer`."""

from __future__ import annotations

import logging
import re
from typing import Literal

import orjson

from coalmine.protocol import (
    EncodedReply,
    InferenceCall,
    MalformedRequestError,
    Tensors,
    decode_v1,
    decode_v2,
    encode_v1,
    encode_v2,
)
from coalmine.serving._asgi import (
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._encoding import inflate
from coalmine.serving._errors import OverloadedError, TooManyRequestsError
from coalmine.serving._ids import request_id
from coalmine.serving._servable import Servable
from coalmine.serving._status import http_status, public_message

__all__ = ["HttpEdge", "send_error"]

_log = logging.getLogger("coalmine.serving")
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_LENGTH = b"inference-header-content-length"
_ROUTE = re.compile(
    r"/v1/models/(?P<v1>[^/]+):predict"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer"
)


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

    @staticmethod
    def match(path: str) -> re.Match[str] | None:
        """The inference route of a path, if it is one."""
        return _ROUTE.fullmatch(path)

    async def __call__(
        self, route: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request."""
        call = _Call(self._plane, "v2" if route["v1"] is None else "v1", dict(scope["headers"]))
        try:
            with self._plane.admitted():
                try:
                    answer = await call.answer(route, receive)
                except ClientGoneError:
                    return
                except Exception as error:
                    await self._refuse(call, error, send)
                    return
                self._plane.count(call.servable, call.protocol, None, call.arrived)
                headers = [*call.reply_headers, *self._identity(call)]
                await respond(send, 200, headers, answer)
        except TooManyRequestsError as error:
            await self._refuse(call, error, send)

    async def _refuse(self, call: _Call, error: Exception, send: Send) -> None:
        self._plane.count(call.servable, call.protocol, error, call.arrived)
        if http_status(error) == 500:
            _log.error("request %s failed", call.identifier(), exc_info=error)
        await send_error(send, error, self._identity(call))

    def _identity(self, call: _Call) -> Headers:
        return [(b"x-request-id", call.identifier().encode()), *self._plane.identity(call.servable)]


class _Call:
    """One request on its way through."""

    def __init__(
        self, plane: Dataplane, protocol: Literal["v1", "v2"], headers: dict[bytes, bytes]
    ) -> None:
        self._plane = plane
        self.protocol = protocol
        self._headers = headers
        self.servable: Servable | None = None
        self._id: str | None = None
        self.arrived = plane.clock.monotonic()
        self.reply_headers: Headers = [_JSON]

    def identifier(self, body_id: str | None = None) -> str:
        """The request's id, settled when first asked for."""
        if self._id is None:
            self._id = request_id(self._headers, body_id, self._plane.clock)
        return self._id

    async def answer(self, route: re.Match[str], receive: Receive) -> bytes:
        """The response's body."""
        plane = self._plane
        servable = self.servable = plane.serve(route[self.protocol], route["version"])
        servable.calls += 1  # a version that is replaced meanwhile still answers this request
        try:
            body = await read_body(self._headers, receive, limit=plane.limits.max_body)
        finally:
            servable.calls -= 1
        if (encoding := self._headers.get(b"content-encoding")) is not None:
            body = inflate(body, encoding.decode("latin-1"), limit=plane.limits.max_body)
        self.arrived = plane.clock.monotonic()
        if self.protocol == "v1":
            call = decode_v1(body, servable.signature)
        else:
            call = decode_v2(body, servable.signature, json_length=self._json_length())
        identifier = self.identifier(call.id)

        def encode(outputs: Tensors) -> bytes:
            if self.protocol == "v1":
                return encode_v1(outputs, call.outputs, columnar=call.columnar)
            return self._encode_v2(servable, call, outputs, identifier)

        return await plane.infer(
            servable,
            call,
            protocol=self.protocol,
            request_id=identifier,
            arrived=self.arrived,
            encode=encode,
        )

    def _json_length(self) -> int | None:
        length = self._headers.get(_LENGTH)
        if length is None:
            return None
        if not length.isdigit() or len(length) > 18:
            raise MalformedRequestError("Inference-Header-Content-Length must be a number of bytes")
        return int(length)

    def _encode_v2(
        self, servable: Servable, call: InferenceCall, outputs: Tensors, identifier: str
    ) -> bytes:
        reply: EncodedReply = encode_v2(
            call,
            outputs,
            model_name=servable.name,
            model_version=servable.version,
            request_id=identifier if call.id is None else call.id,
        )
        if reply.json_length is not None:
            self.reply_headers = [_BINARY, (_LENGTH, b"%d" % reply.json_length)]
        return reply.body
