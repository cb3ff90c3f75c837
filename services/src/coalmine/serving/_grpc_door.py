"""ModelInfer over our own HTTP/2, the shortest way: no task, no future, no ASGI.

A call is the sink of its stream and waits for its own request: what settles the request writes the
response. Everything else gRPC has goes through the edge (`_grpc`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from coalmine.serving._dataplane import Dataplane
from coalmine.serving._delivery import Request
from coalmine.serving._errors import (
    BodyTooLargeError,
    DeadlineError,
    QueueFullError,
    TooManyRequestsError,
)
from coalmine.serving._grpc_call import CONTENT, FRAME, GrpcCall, call_padding
from coalmine.serving._servable import Servable
from coalmine.serving.http2 import Endpoint, Refusal, Stream, encode

__all__ = ["InferCall"]

_log = logging.getLogger("coalmine.serving")
_START = encode(CONTENT, status=200)
_DONE = encode([(b"grpc-status", b"0")])
_ID = encode([(b"x-request-id", b"")])[:-1]
_SHORT = 126


class InferCall:
    """One ModelInfer, from its head to its answer: a `Sink`, and a `Waiter`."""

    __slots__ = ("_call", "_endpoint", "_over", "_plane", "_request", "_servable", "_stream")

    def __init__(self, stream: Stream, plane: Dataplane, endpoint: Endpoint) -> None:
        self._plane = plane
        self._stream = stream
        self._endpoint = endpoint
        self._request: Request | None = None
        self._servable: Servable | None = None
        self._over = False
        head = stream.head
        self._call = GrpcCall(plane, head.headers, infers=True, began=stream.began)
        try:
            plane.admit()
        except TooManyRequestsError as error:
            self._over = True
            self._refuse(error)

    # The stream's side.

    def progress(self) -> None:
        """It is a large message: receive it where it will be read; unless it is too large."""
        stream, limit = self._stream, self._plane.limits.max_body
        _, length = FRAME.unpack(stream.peek(FRAME.size))
        if stream.size > limit or length + FRAME.size > limit:
            text = f"more than the {limit} bytes that a request may have"
            self.set_exception(BodyTooLargeError(text))
            return
        stream.reserve(length + FRAME.size, padding=call_padding())
        stream.mark = limit

    def complete(self) -> None:
        """The message is there."""
        if self._over:
            return
        call = self._call
        try:
            servable, request = call.prepare(call.message(self._stream.take()))
            request.future = self
            servable.calls += 1
            self._servable, self._request = servable, request
            servable.begin(request)
        except Exception as error:
            self.set_exception(error)
        # What this turn brings is run at its end, and answered right after that.
        self._endpoint.schedule()

    def refuse(self, why: str) -> None:
        """Answer that it came too slowly, or that there is too much of it."""
        self.set_exception(DeadlineError(why) if why == Refusal.LATE else QueueFullError(why))

    def gone(self) -> None:
        """The caller left."""
        if not self._over:
            self._leave()
            self._call.count(asyncio.CancelledError())

    def sent(self) -> None:
        """Nothing is waited for."""

    # The request's side.

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self._over

    def set_result(self, result: Any) -> None:
        """The request is answered."""
        if self._over:
            return
        request, servable = self._request, self._servable
        assert request is not None
        assert servable is not None
        self._leave()
        identifier, reply = request.request_id.encode(), request.reply
        if len(identifier) > _SHORT:
            block = _START + encode([(b"x-request-id", identifier)])
        else:
            block = b"".join((_START, _ID, bytes((len(identifier),)), identifier))
        block += encode(servable.identity)
        self._stream.respond(block, FRAME.pack(0, len(reply)) + reply, _DONE)

    def set_exception(self, error: BaseException) -> None:
        """The request is refused, or has failed."""
        if not self._over:
            self._leave()
            self._refuse(error)

    def _leave(self) -> None:
        """Give back what the call has taken."""
        self._over = True
        self._plane.release()
        if self._servable is not None:
            self._servable.calls -= 1
            assert self._request is not None
            self._servable.leave(self._request)
            self._request = None  # which holds the call, and its tensors

    def _refuse(self, error: BaseException) -> None:
        # A call without a message is answered by headers alone ("trailers-only").
        self._stream.respond(encode(self._call.refused(error), status=200), b"")
