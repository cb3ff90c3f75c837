"""Inference over HTTP/1.1, the shortest way: no task, no future, no ASGI.

A call is what its connection takes for uvicorn's cycle of a request and a response (the attributes
that the protocol looks at), and waits for its own request: what settles it writes the response. All
that is not inference goes through the application.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from coalmine.serving._asgi import Headers
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._delivery import Request
from coalmine.serving._errors import BodyTooLargeError, QueueFullError
from coalmine.serving._http_call import HttpCall, Route, padding_of
from coalmine.serving._servable import Servable

if TYPE_CHECKING:
    from coalmine.serving._http1_direct import DirectProtocol

__all__ = ["DirectCall"]

_log = logging.getLogger("coalmine.serving")
#: A body from here on is received into its own place.
_LARGE = 64 * 1024
#: Smaller pieces of a body are joined as they come: each alone would cost more than its bytes.
_PIECE = 4096
_OK = STATUS_LINE[200]
_CLOSE = b"connection: close\r\n\r\n"
_END = b"\r\n"


class DirectCall:
    """One inference, from its head to its answer: a `Waiter`, and a cycle of its connection."""

    __slots__ = (
        "_call",
        "_chunks",
        "_limit",
        "_over",
        "_place",
        "_plane",
        "_protocol",
        "_request",
        "_servable",
        "_size",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
    )

    #: What uvicorn's protocol does to a cycle, and means nothing here.
    message_event = asyncio.Event()

    def __init__(
        self,
        protocol: DirectProtocol,
        plane: Dataplane,
        route: Route,
        headers: dict[bytes, bytes],
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol: DirectProtocol | None = protocol
        self._plane = plane
        self._call = HttpCall(plane, route, headers)
        self._request: Request | None = None
        self._servable: Servable | None = None
        self._limit = plane.limits.max_body
        self._chunks: list[bytes | bytearray] = []
        self._place: memoryview | None = None
        self._size = 0
        self._over = True  # until it is admitted
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_started = self.response_complete = False
        try:
            plane.admit()
        except Exception as error:
            self._refuse(error)
            return
        self._over = False
        try:
            servable = self._call.find()
            servable.calls += 1
            self._servable = servable
        except Exception as error:
            self.set_exception(error)

    # The body.

    def expect(self, headers: dict[bytes, bytes]) -> None:
        """A body is on its way; how large it is the headers may say."""
        announced = headers.get(b"content-length", b"")
        if self._over or not announced.isdigit():
            return
        size = int(announced)
        if self._fits(size) and size > _LARGE:
            # Not zeroed, and no memory until it is written: this is only what a client says.
            padding = padding_of(headers)
            self._place = np.empty(padding + size, np.uint8).data[padding:]

    def receive(self, place: memoryview, *, there: int) -> None:
        """The body belongs into a place of its size, and its first bytes are there."""
        if not self._over and self._fits(len(place)):
            self._place = place
            self.placed(there)

    def add(self, chunk: bytes) -> None:
        """More of the body."""
        if self._over:
            return
        start = self._size
        self._size = end = start + len(chunk)
        if not self._hold(len(chunk)):
            return
        if end > self._limit:
            text = f"more than the {self._limit} bytes that a request may have"
            self.set_exception(BodyTooLargeError(text))
        elif self._place is not None:
            self._place[start:end] = chunk
        elif self._chunks and len(chunk) < _PIECE:
            last = self._chunks[-1]
            if not isinstance(last, bytearray):
                last = self._chunks[-1] = bytearray(last)
            last += chunk
        else:
            self._chunks.append(chunk)

    def room(self) -> memoryview | None:
        """Where the rest of the body belongs; None if it is not known to be large."""
        return None if self._over or self._place is None else self._place[self._size :]

    def placed(self, size: int) -> bool:
        """So many bytes are in the room; whether that was all."""
        self._size += size
        self._hold(size)
        return self._place is None or self._size == len(self._place)

    def complete(self) -> None:
        """The body is there."""
        chunks, place = self._chunks, self._place
        self._chunks, self._place = [], None
        if not self._over:
            self._plane.arriving.size -= self._size
        if place is not None:
            self.take(place)
        elif len(chunks) == 1:
            (only,) = chunks
            self.take(only if isinstance(only, bytes) else memoryview(only))
        else:
            self.take(b"".join(chunks))

    def take(self, body: bytes | memoryview) -> None:
        """The body is there, as a whole."""
        self.more_body = False
        servable = self._servable
        if self._over or servable is None:
            return
        try:
            request = self._request = self._call.prepare(servable, body)
            request.future = self
            servable.begin(request)
        except Exception as error:
            self.set_exception(error)

    # The connection's side.

    @property
    def scope(self) -> dict[str, Any]:
        """Where uvicorn's cycles have their request."""
        return {}

    @property
    def disconnected(self) -> bool:
        """Whether the client left."""
        return self._over

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        if not self._over:
            self._leave()
            self._call.count(asyncio.CancelledError())
        self._protocol = None

    def refuse(self) -> None:
        """The connection gives up on it: it is not answered, and counted as left."""
        self.disconnected = True

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
        kind, body = request.reply
        identity = (b"x-request-id", request.request_id.encode())
        self._respond(_OK, [*kind, identity, *servable.identity], body)

    def set_exception(self, error: BaseException) -> None:
        """The request is refused, or has failed."""
        if not self._over:
            self._leave()
            self._refuse(error)

    def _leave(self) -> None:
        """Give back what the call has taken."""
        self._over = True
        if self.more_body:
            self._plane.arriving.size -= self._size
        self._chunks, self._place = [], None
        self._plane.release()
        if self._servable is not None:
            self._servable.calls -= 1
            if self._request is not None:
                self._servable.leave(self._request)
                self._request = None  # which holds the call, and its tensors

    def _fits(self, size: int) -> bool:
        """Whether a body may be so large; if not, it is refused."""
        if size > self._limit:
            text = f"{size} bytes, but a request may have {self._limit}"
            self.set_exception(BodyTooLargeError(text))
        return size <= self._limit

    def _hold(self, size: int) -> bool:
        """Whether so many bytes more may be held; if not, the rest is not waited for."""
        try:
            self._plane.arriving.add(size)
        except QueueFullError as error:
            self.keep_alive = False
            self.set_exception(error)
            return False
        return True

    def _refuse(self, error: BaseException) -> None:
        status, headers, body = self._call.refused(error)
        self._respond(STATUS_LINE[status], headers, body)

    def _respond(self, status: bytes, headers: Headers, body: bytes) -> None:
        protocol, self._protocol = self._protocol, None
        self.response_started = self.response_complete = True
        if protocol is None:
            return
        parts = [status, protocol.defaults()]
        for name, value in headers:
            parts += (name, b": ", value, _END)
        parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(_END if self.keep_alive else _CLOSE)
        parts.append(body)
        protocol.answered(b"".join(parts), keep_alive=self.keep_alive)
