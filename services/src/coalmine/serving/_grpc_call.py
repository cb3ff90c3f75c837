"""One gRPC call, however it came: its message, the request in it, and what a refusal says."""

from __future__ import annotations

import logging
import struct
from urllib.parse import quote

from coalmine.protocol import InferenceCall, InferMemo, MalformedRequestError, Tensors
from coalmine.protocol.protobuf import decode_infer, encode_infer, parse_infer
from coalmine.serving._asgi import Headers
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._delivery import Request
from coalmine.serving._encoding import inflate
from coalmine.serving._errors import BodyTooLargeError, OverloadedError
from coalmine.serving._ids import request_id
from coalmine.serving._servable import Servable
from coalmine.serving._status import grpc_status, http_status, public_message

__all__ = ["CONTENT", "FRAME", "GrpcCall", "call_padding"]

_log = logging.getLogger("coalmine.serving")
#: Before a message: whether it is compressed, and its length.
FRAME = struct.Struct(">BI")
CONTENT = [
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,gzip,deflate"),
]
_memo = InferMemo()
#: Where a tensor may begin; what the allocator gives.
_ALIGNED = 16
_PLAIN = " !#$&'()*+,/:;=?@[]"


def call_padding() -> int:
    """Bytes to leave free in front of a large message: its tensors are aligned if the last were."""
    return -(FRAME.size + _memo.tensors_at) % _ALIGNED


class GrpcCall:
    """One call on its way through. `infers` says that it is ModelInfer, which is counted."""

    __slots__ = ("_began", "_id", "_plane", "arrived", "headers", "infers", "servable")

    def __init__(
        self, plane: Dataplane, headers: dict[bytes, bytes], *, infers: bool, began: float
    ) -> None:
        self._plane = plane
        self._id: str | None = None
        self.servable: Servable | None = None
        self.headers = headers
        self.infers = infers
        self.arrived = self._began = began

    @property
    def identifier(self) -> str:
        """The request's id, settled when first asked for."""
        if self._id is None:
            self._id = request_id(self.headers, None, self._plane.clock)
        return self._id

    def identity(self) -> Headers:
        """Who asked and who answers, as metadata of the response."""
        asked = (b"x-request-id", self.identifier.encode())
        return [asked, *self._plane.identity(self.servable)]

    def message(self, body: bytes | memoryview) -> bytes | memoryview:
        """The one message of a unary call, once its body is complete."""
        limit = self._plane.limits.max_body
        self.arrived = self._plane.clock.monotonic()
        if len(body) > limit:
            raise BodyTooLargeError(f"more than the {limit} bytes that a request may have")
        if len(body) < FRAME.size or body[0] > 1:
            raise MalformedRequestError("the body is not a gRPC frame")
        compressed, length = FRAME.unpack_from(body)
        if length != len(body) - FRAME.size:
            raise MalformedRequestError(f"the frame says {length} bytes, {len(body) - 5} follow")
        if not compressed:
            return body[FRAME.size :]
        encoding = self.headers.get(b"grpc-encoding", b"").decode("latin-1")
        return inflate(bytes(body[FRAME.size :]), encoding, limit=limit)

    def prepare(self, payload: bytes | memoryview) -> tuple[Servable, Request]:
        """The request in a ModelInferRequest, and who is to answer it."""
        plane = self._plane
        servable, call = self._again(payload) or self._read(payload)
        identifier = self.identifier

        def encode(outputs: Tensors) -> bytes:
            return encode_infer(
                call,
                outputs,
                model_name=servable.name,
                model_version=servable.version,
                request_id=call.id or identifier,
            )

        request = Request(
            call.tensors,
            call.rows,
            size=len(payload),
            protocol="grpc",
            request_id=identifier,
            arrived=self.arrived,
            encode=encode,
            deadline=plane.deadline(self._began, self.headers, call),
            caller=plane.caller(self.headers),
        )
        return servable, request

    def _read(self, payload: bytes | memoryview) -> tuple[Servable, InferenceCall]:
        plane = self._plane
        message, raw = parse_infer(payload)
        self._id = request_id(self.headers, message.id or None, plane.clock)
        name, version = message.model_name, message.model_version
        servable = self.servable = plane.serve(name, version)
        call = decode_infer(message, servable.signature, raw=raw)
        _memo.learn(
            payload,
            call,
            model_name=name,
            model_version=version,
            signature=servable.signature,
            raw_sizes=[len(part) for part in raw],
        )
        return servable, call

    def _again(self, payload: bytes | memoryview) -> tuple[Servable, InferenceCall] | None:
        """The same for a request like one before it; None if it is not."""
        if (found := _memo.find(payload)) is None:
            return None
        known, raw = found
        servable = self._plane.serve(known.model_name, known.model_version)
        if servable.signature is not known.signature:
            return None
        self.servable = servable
        return servable, known.decode(raw)

    def count(self, error: BaseException) -> None:
        """Count a call that is not answered, or left by its client."""
        if self.infers:
            self._plane.count(
                self.servable,
                "grpc",
                error,
                self.arrived,
                identifier=self.identifier,
                caller=self._plane.caller(self.headers),
            )

    def refused(self, error: BaseException) -> Headers:
        """Count and log a refusal; the fields of the response, which has nothing else."""
        self.count(error)
        if http_status(error) == 500:
            _log.error("request %s failed", self.identifier, exc_info=error)
        headers = [*CONTENT, *self.identity()]
        if isinstance(error, OverloadedError):
            headers.append((b"retry-after", b"%d" % error.retry_after))
        headers.append((b"grpc-status", b"%d" % grpc_status(error)))
        headers.append((b"grpc-message", quote(public_message(error), safe=_PLAIN).encode()))
        return headers
