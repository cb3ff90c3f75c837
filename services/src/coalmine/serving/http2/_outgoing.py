"""What goes to a client: gathered in one write for each turn of the loop, within its windows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from coalmine.serving.http2 import _frames
from coalmine.serving.http2._errors import ConnectionFault, expect
from coalmine.serving.http2._frames import ErrorCode, Flag, Kind, Setting, frame

if TYPE_CHECKING:
    from coalmine.serving.http2._endpoint import Endpoint
    from coalmine.serving.http2._stream import Stream

__all__ = ["MOST_WINDOW", "Outgoing"]

MOST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_LEAST_FRAME = 16_384
_LARGEST_WRITE = 256 * 1024
_TABLE = 4096
_NO_TABLE = b"\x20"
#: Streams that we have reset, of which more may come for a moment.
_REMEMBERED = 1024


class Outgoing:
    """One connection's way out."""

    __slots__ = (
        "_endpoint",
        "_out",
        "_reset",
        "_table_update",
        "_transport",
        "blocked",
        "initial_window",
        "is_choked",
        "most_frame",
        "pending",
        "window",
    )

    def __init__(self, endpoint: Endpoint, transport: asyncio.Transport) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._out: list[bytes] = []
        self._reset: OrderedDict[int, None] = OrderedDict()
        self._table_update = b""
        self.blocked: dict[Stream, None] = {}
        """Streams that have more to send than they may."""

        self.pending = 0
        """Bytes of responses that wait for the client's windows."""

        self.initial_window = self.window = _FIRST_WINDOW
        """Bytes that we may send on a new stream, and on all together."""

        self.most_frame = _LEAST_FRAME
        self.is_choked = False
        """Whether the client does not read what we have sent."""

    def write(self, data: bytes) -> None:
        """Send with all else that is written in this turn of the loop."""
        if not self._out:
            self._endpoint.flush_later(self)
        self._out.append(data)

    def flush(self) -> None:
        """Send what was written."""
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def may_send(self, size: int) -> bool:
        """Whether so many bytes of a body may go at once, in one frame."""
        return size <= self.window and size <= self.most_frame and not self._table_update

    def headers(self, stream: int, block: bytes, *, end: bool) -> None:
        """Send a header block, in as many frames as it takes."""
        kind, flags = Kind.HEADERS, Flag.END_STREAM if end else 0
        block, self._table_update = self._table_update + block, b""
        while len(block) > self.most_frame:
            self.write(frame(kind, flags, stream, block[: self.most_frame]))
            block, kind, flags = block[self.most_frame :], Kind.CONTINUATION, 0
        self.write(frame(kind, flags | Flag.END_HEADERS, stream, block))

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Tell the client that a stream ends here; what it has sent meanwhile is passed over."""
        self.write(_frames.reset(stream, code))
        self._reset[stream] = None
        if len(self._reset) > _REMEMBERED:
            self._reset.popitem(last=False)

    def was_reset(self, stream: int) -> bool:
        """Whether a stream was reset by us, lately."""
        return stream in self._reset

    def widen(self, amount: int) -> None:
        """The client lets us send more."""
        expect(amount > 0, "WINDOW_UPDATE of nothing")
        self.window += amount
        fits = self.window <= MOST_WINDOW
        expect(fits, "more than the largest window", ErrorCode.FLOW_CONTROL_ERROR)
        self.pump()

    def settle(self, key: int, value: int, streams: dict[int, Stream]) -> None:
        """The client says what it takes. ConnectionFault if it may not say so."""
        if key == Setting.INITIAL_WINDOW_SIZE:
            most = max((stream.window for stream in streams.values()), default=0)
            more = value - self.initial_window
            if max(value, most + more) > MOST_WINDOW:
                text = "more than the largest window"
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, text)
            for stream in streams.values():
                stream.window += more
            self.initial_window = value
        elif key == Setting.MAX_FRAME_SIZE:
            expect(_LEAST_FRAME <= value < 2**24, "SETTINGS_MAX_FRAME_SIZE")
            self.most_frame = min(value, _LARGEST_WRITE)
        elif key == Setting.ENABLE_PUSH:
            expect(value <= 1, "SETTINGS_ENABLE_PUSH")
        elif key == Setting.HEADER_TABLE_SIZE and value < _TABLE:
            self._table_update = _NO_TABLE  # we use none of it, and have to say so

    def pump(self) -> None:
        """Let all send who could not; who still cannot waits behind the others."""
        waiting, self.blocked = self.blocked, {}
        for stream in waiting:
            if not stream.closed:
                stream.pump()
                stream.sink.sent()
