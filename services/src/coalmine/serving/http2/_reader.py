"""Cuts what a connection receives into frames, and bodies out of them, with few copies.

All connections share one buffer to receive into: what is in it is used up before the next one is
read. The payload of DATA is passed on as it comes, so that a frame may be of any size, and is
received right into the body where that is known to be large.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from coalmine.serving.http2._errors import ConnectionFault
from coalmine.serving.http2._frames import HEADER, ErrorCode, Flag, Kind

__all__ = ["MAX_FRAME", "FrameReader"]

#: What we let clients put into one frame. Only DATA may be so large.
MAX_FRAME = 1024**2
_MOST_HELD = 64 * 1024
_SCRATCH = memoryview(bytearray(256 * 1024))
#: Below this a copy costs less than a view.
_COPIED = 32 * 1024
_HEADER = HEADER.size


class FrameReader(asyncio.BufferedProtocol):
    """Calls `on_frame`, or for DATA `on_data` for each piece; they may raise ConnectionFault."""

    def __init__(self) -> None:
        self._held = b""
        """The beginning of a frame that is not complete."""

        self._left = 0
        """Bytes of DATA that are still to come of the frame that is being received."""

        self._skip = 0
        """... and of padding, or of a frame that nobody knows."""

        self._stream = 0
        self._ends = False
        self._direct = False

    @abstractmethod
    def on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame that is not DATA."""

    @abstractmethod
    def on_data(self, stream: int, size: int) -> None:
        """DATA begins: a frame of so many bytes, padding included."""

    @abstractmethod
    def on_body(self, chunk: bytes | memoryview) -> None:
        """Some of its payload; to be copied if it is kept, unless it is `bytes`."""

    @abstractmethod
    def on_body_end(self) -> None:
        """The last of the stream's payload has come."""

    @abstractmethod
    def room(self, size: int) -> memoryview | None:
        """Where up to `size` more bytes of the body belong, if that is known."""

    @abstractmethod
    def on_placed(self, size: int) -> None:
        """So many bytes have been received into that room."""

    @property
    def is_amid_frame(self) -> bool:
        """Whether the rest of a frame has yet to come."""
        return bool(self._held or self._left or self._skip)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive into."""
        if self._left > _COPIED and not self._held and (room := self.room(self._left)) is not None:
            self._direct = True
            return room
        self._direct = False
        return _SCRATCH

    def received(self, count: int) -> None:
        """So many bytes are in the buffer now."""
        if self._direct:
            self._direct = False
            self._left -= count
            self.on_placed(count)
            if not self._left and not self._skip and self._ends:
                self.on_body_end()
            return
        if self._held:
            self.read(self._held + _SCRATCH[:count])
        else:
            self.read(bytes(_SCRATCH[:count]) if count <= _COPIED else _SCRATCH[:count])

    def read(self, data: bytes | memoryview) -> None:
        """Take what has come; `data` is not kept."""
        self._held = b""
        at, size = 0, len(data)
        while True:
            if self._left or self._skip:
                at = self._go_on(data, at, size)
                if self._left or self._skip:
                    return
            if size - at < _HEADER:
                break
            high, low, kind, flags, stream = HEADER.unpack_from(data, at)
            length = high << 8 | low
            stream &= 0x7FFFFFFF
            if length > MAX_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame that is too large")
            if kind == Kind.DATA:
                if flags & Flag.PADDED and length and size - at == _HEADER:
                    break  # how much is padding is in the next byte
                at = self._begin_data(data, at, length, flags, stream)
                continue
            end = at + _HEADER + length
            if end > size:
                if length <= _MOST_HELD:
                    break
                if kind <= Kind.CONTINUATION:
                    raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a frame that is too large")
                self.on_frame(kind, flags, stream, b"")
                self._skip, self._ends, at = length, False, at + _HEADER
                continue
            payload = bytes(data[at + _HEADER : end])
            at = end
            self.on_frame(kind, flags, stream, payload)
        if at < size:
            self._held = bytes(data[at:])

    def _begin_data(
        self, data: bytes | memoryview, at: int, length: int, flags: int, stream: int
    ) -> int:
        """A DATA frame begins at `at`; where its payload does."""
        self.on_data(stream, length)
        at += _HEADER
        padding = 0
        if flags & Flag.PADDED:
            padding = data[at] + 1 if length else 1
            if padding > length:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
            at += 1
        self._left = length - padding
        self._skip = max(0, padding - 1)
        self._ends = bool(flags & Flag.END_STREAM)
        if not self._left and not self._skip and self._ends:
            self.on_body_end()
        return at

    def _go_on(self, data: bytes | memoryview, at: int, size: int) -> int:
        """Take more of the payload and the padding of a frame; where that ends."""
        if self._left and at < size:
            take = min(self._left, size - at)
            self._left -= take
            self.on_body(data[at : at + take])
            at += take
        if self._skip and not self._left:
            take = min(self._skip, size - at)
            self._skip -= take
            at += take
        if self._ends and not self._left and not self._skip:
            self.on_body_end()
        return at
