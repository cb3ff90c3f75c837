"""One REST inference request, however it came: what is in its body, and what a refusal says."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Literal, NamedTuple

import orjson

from coalmine.protocol import (
    InferenceCall,
    MalformedRequestError,
    Tensors,
    V2Memo,
    decode_v1,
    encode_v1,
    encode_v2,
)
from coalmine.serving._asgi import Headers
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._delivery import Request
from coalmine.serving._encoding import inflate
from coalmine.serving._errors import OverloadedError, ServingError, TooManyRequestsError
from coalmine.serving._ids import request_id
from coalmine.serving._servable import Servable
from coalmine.serving._status import http_status, public_message

__all__ = ["HttpCall", "Refused", "Reply", "Route", "padding_of", "refusal"]

_log = logging.getLogger("coalmine.serving")
_JSON = (b"content-type", b"application/json")
_AS_JSON: Headers = [_JSON]
_BINARY = (b"content-type", b"application/octet-stream")
#: Says where the JSON of a body with binary tensors ends.
_LENGTH = b"inference-header-content-length"
#: Where a tensor may begin; what the allocator gives.
_ALIGNED = 16
_memo = V2Memo()

#: The headers that say what a body is, and the body.
Reply = tuple[Headers, bytes]


class Route(NamedTuple):
    """An inference route."""

    protocol: Literal["v1", "v2"]
    name: str
    version: str | None


class Refused(NamedTuple):
    """A response that is an error."""

    status: int
    headers: Headers
    body: bytes


def refusal(error: BaseException, headers: Headers) -> Refused:
    """An error in the protocol's form."""
    extra: Headers = [_JSON]
    if isinstance(error, OverloadedError):
        extra.append((b"retry-after", b"%d" % error.retry_after))
    body = orjson.dumps({"error": public_message(error)})
    return Refused(http_status(error), [*extra, *headers], body)


def padding_of(headers: dict[bytes, bytes], *, before: int = 0) -> int:
    """Bytes to leave free in front of a body, and `before` it, so that its tensors are aligned."""
    length = headers.get(_LENGTH, b"")
    return -(before + int(length)) % _ALIGNED if length.isdigit() and len(length) < 10 else 0


class HttpCall:
    """One request on its way through."""

    __slots__ = ("_began", "_headers", "_id", "_plane", "arrived", "route", "servable")

    def __init__(self, plane: Dataplane, route: Route, headers: dict[bytes, bytes]) -> None:
        self._plane = plane
        self._headers = headers
        self._id: str | None = None
        self.route = route
        self.servable: Servable | None = None
        self.arrived = self._began = plane.clock.monotonic()

    def identifier(self, body_id: str | None = None) -> str:
        """The request's id, settled when first asked for."""
        if self._id is None:
            self._id = request_id(self._headers, body_id, self._plane.clock)
        return self._id

    def find(self) -> Servable:
        """Who is to answer. Raise its `calls` meanwhile: a replaced version still does."""
        _, name, version = self.route
        self.servable = servable = self._plane.serve(name, version)
        return servable

    def prepare(self, servable: Servable, body: bytes | memoryview) -> Request:
        """The request in a body that is complete."""
        plane, headers, protocol = self._plane, self._headers, self.route.protocol
        if (encoding := headers.get(b"content-encoding")) is not None:
            body = inflate(bytes(body), encoding.decode("latin-1"), limit=plane.limits.max_body)
        self.arrived = plane.clock.monotonic()
        if protocol == "v1":
            call = decode_v1(body, servable.signature)
        else:
            call = _memo.decode(body, servable.signature, json_length=self._json_length())
        identifier = self.identifier(call.id)
        return Request(
            call.tensors,
            call.rows,
            size=len(body),
            protocol=protocol,
            request_id=identifier,
            arrived=self.arrived,
            encode=_V1Reply(call) if protocol == "v1" else _V2Reply(call, servable, identifier),
            deadline=plane.deadline(self._began, headers, call),
            caller=plane.caller(headers),
        )

    def count(self, error: BaseException) -> None:
        """Count a request that is not answered, or left by its client."""
        plane = self._plane
        if self.servable is None and isinstance(error, TooManyRequestsError):
            with suppress(ServingError):  # shed before anybody asked whose it is
                self.find()
        plane.count(
            self.servable,
            self.route.protocol,
            error,
            self.arrived,
            identifier=self.identifier(),
            caller=plane.caller(self._headers),
        )

    def refused(self, error: BaseException) -> Refused:
        """Count and log a refusal; the response."""
        self.count(error)
        if http_status(error) == 500:
            _log.error("request %s failed", self.identifier(), exc_info=error)
        asked = (b"x-request-id", self.identifier().encode())
        return refusal(error, [asked, *self._plane.identity(self.servable)])

    def _json_length(self) -> int | None:
        length = self._headers.get(_LENGTH)
        if length is None:
            return None
        if not length.isdigit() or len(length) > 18:
            raise MalformedRequestError("Inference-Header-Content-Length must be a number of bytes")
        return int(length)


class _V1Reply:
    """Writes the answer to a V1 call."""

    __slots__ = ("_call",)

    def __init__(self, call: InferenceCall) -> None:
        self._call = call

    def __call__(self, outputs: Tensors) -> Reply:
        call = self._call
        return _AS_JSON, encode_v1(outputs, call.outputs, columnar=call.columnar)


class _V2Reply:
    """Writes the answer to a V2 call."""

    __slots__ = ("_call", "_id", "_servable")

    def __init__(self, call: InferenceCall, servable: Servable, identifier: str) -> None:
        self._call = call
        self._servable = servable
        self._id = identifier

    def __call__(self, outputs: Tensors) -> Reply:
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
