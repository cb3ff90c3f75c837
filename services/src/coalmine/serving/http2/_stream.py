"""One request and its response: a stream of a connection."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from coalmine.serving.http2._frames import HEADER, ErrorCode, Flag, Kind, frame
from coalmine.serving.http2._heads import Head

if TYPE_CHECKING:
    from coalmine.serving.http2._connection import Connection

__all__ = ["FIRST_LOOK", "Refusal", "Sink", "Stream"]

#: Bytes of a body after which its sink is asked for the first time.
FIRST_LOOK = 32 * 1024
#: Smaller pieces of a body are joined as they come: each alone would cost more than its bytes.
_PIECE = 4096


class Refusal:
    """Why the connection refuses a request that a sink has begun to answer."""

    LATE = "the request did not arrive in time"
    BUSY = "too many bytes of requests are on their way already; try again later"


class Sink(Protocol):
    """Who answers a stream's request."""

    def progress(self) -> None:
        """More than `stream.mark` bytes of the body are there, and it has not ended."""

    def complete(self) -> None:
        """The request has come as a whole; `stream.take` has its body."""

    def refuse(self, why: str) -> None:
        """Answer with a Refusal instead, if nothing was answered yet."""

    def gone(self) -> None:
        """Nobody waits for an answer any more."""

    def sent(self) -> None:
        """Some of what waited to be sent was sent."""


class _Nobody:
    """The sink of a stream that is closed."""

    def progress(self) -> None: ...
    def complete(self) -> None: ...
    def refuse(self, why: str) -> None: ...
    def gone(self) -> None: ...
    def sent(self) -> None: ...


_NOBODY = _Nobody()


class Stream:
    """What has come of a request, and what has yet to go of its response.

    All methods may be called when the stream is closed already; then they do nothing.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_pending",
        "_tail",
        "began",
        "closed",
        "connection",
        "credit",
        "ended",
        "finishing",
        "head",
        "id",
        "mark",
        "moved",
        "pending_bytes",
        "sink",
        "size",
        "started",
        "total",
        "window",
    )

    sink: Sink

    def __init__(self, connection: Connection, number: int, head: Head, now: float) -> None:
        self.connection = connection
        self.id = number
        self.head = head
        self.began = self.moved = now
        """When its head came, and when some of the response went last; monotonic."""

        self.ended = self.closed = self.started = False
        """Whether the request is complete; the stream is no more; the response has begun."""

        self.mark = FIRST_LOOK
        self.size = self.total = 0
        """Bytes of the body that are here, and that have come; `take` tells them apart."""

        self.credit = connection.endpoint.stream_window
        """Bytes that the client may still send."""

        self.window = connection.out.initial_window
        """Bytes that we may send."""

        self.pending_bytes = 0
        self._chunks: list[bytes | bytearray] = []
        self._buffer: memoryview | None = None
        self._pending: deque[memoryview] | None = None
        self._tail: bytes | None = None
        self.finishing = False
        """Whether the whole response is known, if not sent."""

    # The request.

    def add(self, chunk: bytes | memoryview) -> None:
        """More of the body."""
        start = self.size
        self.size = end = start + len(chunk)
        self.total += len(chunk)
        if self._buffer is not None:
            if end <= len(self._buffer):
                self._buffer[start:end] = chunk
                return
            self._chunks, self._buffer = [bytearray(self._buffer[:start])], None
        if self._chunks and len(chunk) < _PIECE:
            last = self._chunks[-1]
            if not isinstance(last, bytearray):
                last = self._chunks[-1] = bytearray(last)
            last += chunk
        else:
            self._chunks.append(bytes(chunk))

    def reserve(self, total: int, *, padding: int = 0) -> None:
        """Make room for a body of `total` bytes, to be received into, behind some `padding`."""
        if self._buffer is None and total > self.size:
            # Not zeroed, and no memory until it is written: `total` is only what a client says.
            self._buffer = np.empty(padding + total, np.uint8).data[padding:]
            self._buffer[: self.size] = b"".join(self._chunks)
            self._chunks = []

    def room(self, size: int) -> memoryview | None:
        """Where up to `size` more bytes of the body belong; None without a reserve for them."""
        if self._buffer is None or self.size + size > len(self._buffer):
            return None
        return self._buffer[self.size : self.size + size]

    def placed(self, size: int) -> None:
        """So many bytes are in the room now."""
        self.size += size
        self.total += size

    def peek(self, size: int) -> bytes:
        """The first bytes of the body."""
        if self._buffer is not None:
            return bytes(self._buffer[: min(size, self.size)])
        return b"".join(bytes(chunk[:size]) for chunk in self._chunks[:size])[:size]

    def take(self) -> bytes | memoryview:
        """The body, or what there is of it; the stream forgets it."""
        chunks, buffer, size = self._chunks, self._buffer, self.size
        self._let_go()
        if buffer is not None:
            return buffer[:size]
        if len(chunks) == 1:
            (only,) = chunks
            return only if isinstance(only, bytes) else memoryview(only)
        return b"".join(chunks)

    def _let_go(self) -> None:
        if self.size:
            self.connection.hold(-self.size)
            self._chunks, self._buffer, self.size = [], None, 0

    # The response.

    def respond(self, block: bytes, data: bytes, trailers: bytes = b"") -> None:
        """A whole response: the block of its head, its body, and the block of its trailers."""
        if self.closed:
            return
        out = self.connection.out
        size = len(data)
        if (
            not (trailers and data and self.ended)
            or size > self.window
            or not out.may_send(size)
            or len(block) > out.most_frame
        ):
            self.start(block, end=not data and not trailers)
            self.send(data, end=not trailers)
            if trailers:
                self.trail(trailers)
            return
        # What nearly every answer to a gRPC call is: three frames in one piece.
        out.window -= size
        number, pack = self.id, HEADER.pack
        head, tail = len(block), len(trailers)
        out.write(
            b"".join(
                (
                    pack(head >> 8, head & 0xFF, Kind.HEADERS, Flag.END_HEADERS, number),
                    block,
                    pack(size >> 8, size & 0xFF, Kind.DATA, 0, number),
                    data,
                    pack(tail >> 8, tail & 0xFF, Kind.HEADERS, _LAST_HEADERS, number),
                    trailers,
                )
            )
        )
        self._done()

    def start(self, block: bytes, *, end: bool = False) -> None:
        """The response's head."""
        if self.closed or self.started:
            return
        self.started = True
        self.connection.out.headers(self.id, block, end=end)
        if end:
            self._done()

    def send(self, data: bytes, *, end: bool = False) -> None:
        """More of the response's body, when the client lets us."""
        if self.closed or self.finishing:
            return
        if data:
            if self._pending is None:
                self._pending = deque()
            self._pending.append(memoryview(data))
            self.pending_bytes += len(data)
            self.connection.out.pending += len(data)
        self.finishing = end
        self.pump()

    def trail(self, block: bytes) -> None:
        """The trailers, which end the response."""
        if self.closed or self.finishing:
            return
        self._tail, self.finishing = block, True
        self.pump()

    def pump(self) -> None:
        """Send as much as windows and buffers allow now."""
        out, pending = self.connection.out, self._pending
        while pending:
            if out.is_choked:
                out.blocked[self] = None
                return
            first = pending[0]
            size = min(len(first), self.window, out.window, out.most_frame)
            if size <= 0:
                out.blocked[self] = None
                return
            self.window -= size
            out.window -= size
            self.pending_bytes -= size
            out.pending -= size
            if size == len(first):
                pending.popleft()
            else:
                pending[0] = first[size:]
            last = self.finishing and self._tail is None and not pending
            out.write(
                HEADER.pack(
                    size >> 8, size & 0xFF, Kind.DATA, Flag.END_STREAM if last else 0, self.id
                )
            )
            out.write(bytes(first[:size]))
            self.connection.progressed(self)
            if last:
                self._done()
                return
        if not self.finishing:
            return
        if self._tail is not None:
            self.connection.out.headers(self.id, self._tail, end=True)
        else:
            out.write(frame(Kind.DATA, Flag.END_STREAM, self.id))
        self._done()

    def fail(self, code: ErrorCode) -> None:
        """End the stream without an answer, or in the middle of it."""
        if not self.closed:
            self.connection.out.reset(self.id, code)
            self.abandon()

    def abandon(self) -> None:
        """Nobody waits for the response any more."""
        sink = self.sink
        self.close()
        sink.gone()

    def close(self) -> None:
        """Forget the stream; neither side is told."""
        self.closed = True
        self.sink = _NOBODY  # whoever it was holds the stream
        self.connection.out.pending -= self.pending_bytes
        self.pending_bytes, self._pending = 0, None
        self._let_go()
        self.connection.left(self)

    def _done(self) -> None:
        """The whole response is on its way."""
        self.connection.progressed(self)
        if not self.ended:  # so that the client stops sending
            self.connection.out.reset(self.id, ErrorCode.NO_ERROR)
        self.close()


_LAST_HEADERS = Flag.END_HEADERS | Flag.END_STREAM
