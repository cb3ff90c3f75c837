"""One connection of HTTP/2 (RFC 9113): its frames in, its frames out, its streams, its bounds."""

from __future__ import annotations

import asyncio
import logging
import struct

from coalmine.serving.http2 import _frames
from coalmine.serving.http2._endpoint import Endpoint
from coalmine.serving.http2._errors import ConnectionFault, StreamFault, expect
from coalmine.serving.http2._frames import ErrorCode, Flag, Kind, Setting, frame
from coalmine.serving.http2._heads import HEAD_BYTES, HeadDecoder, block_of, check_fields
from coalmine.serving.http2._outgoing import MOST_WINDOW, Outgoing
from coalmine.serving.http2._patience import Patience
from coalmine.serving.http2._reader import MAX_FRAME, FrameReader
from coalmine.serving.http2._stream import Refusal, Stream

__all__ = ["Connection"]

_log = logging.getLogger("coalmine.serving")

#: What a client may send before we have said more; we say it long before that is used up.
_WINDOW = 64 * 1024**2
_FIRST_WINDOW = 65_535
_CONTINUATIONS = 32
_HEAD_SECONDS = 10.0
_IDLE_SECONDS = 300.0
#: What the client sends after we have given up on it is thrown away for so long: a connection that
#: is closed with bytes unread is reset, and the reason why may never arrive.
_LINGER_SECONDS = 1.0
_SETTING = struct.Struct(">HI")


class Connection(FrameReader):
    """Speaks HTTP/2 with one client, after its preface."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.streams: dict[int, Stream] = {}
        self._transport: asyncio.Transport | None = None
        self._heads = HeadDecoder()
        self._patience = Patience()
        self._block: list[bytes] | None = None
        self._block_of = (0, False)
        self._target: Stream | None = None
        self._credit = _WINDOW
        self._held_bytes = 0
        self._last = 0
        self._greeted = self._leaving = self._over = False
        self._quiet_since = self._checked = self._choked_since = 0.0

    # asyncio's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Say what we take."""
        self._transport = transport
        endpoint = self.endpoint
        self.out = Outgoing(endpoint, transport)
        endpoint.connections.add(self)
        self._quiet_since = self._checked = endpoint.clock.monotonic()
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: endpoint.max_streams,
            Setting.INITIAL_WINDOW_SIZE: endpoint.stream_window,
            Setting.MAX_FRAME_SIZE: MAX_FRAME,
            Setting.MAX_HEADER_LIST_SIZE: HEAD_BYTES,
        }
        self.out.write(_frames.settings(ours) + _frames.window_update(0, _WINDOW - _FIRST_WINDOW))

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._guard(self.received, nbytes)

    def begin(self, data: bytes) -> None:
        """What came together with the preface."""
        self._guard(self.read, data)

    def _guard(self, take: object, what: object) -> None:
        if self._over:
            return
        try:
            take(what)  # type: ignore[operator]
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))
        except Exception:
            _log.exception("a connection of HTTP/2 failed")
            self.fail(ErrorCode.INTERNAL_ERROR, "the server failed")

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked for is still answered."""
        for stream in list(self.streams.values()):
            if not stream.ended:
                stream.fail(ErrorCode.CANCEL)
        self._leaving = True
        return bool(self.streams) and not self._over

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._over = True
        self.endpoint.connections.discard(self)
        self._abandon()

    def pause_writing(self) -> None:
        """The client does not read: then it need not ask for more either."""
        self.out.is_choked = True
        self._choked_since = self.endpoint.clock.monotonic()
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self.out.is_choked = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self.out.pump()

    # The server's side.

    def shutdown(self) -> None:
        """Take no more requests, and close when all are answered."""
        if not self._leaving and not self._over:
            self.out.write(_frames.goaway(self._last, ErrorCode.NO_ERROR))
        self._leaving = True
        self._close_if_done()

    def check(self, now: float) -> None:
        """Whatever takes too long; to be called every now and then."""
        self._patience.wait(now - self._checked)
        self._checked = now
        if self._over or self._transport is None:
            return
        limit = self.endpoint.receive_timeout
        if self.out.is_choked and now - self._choked_since > limit:
            self._transport.abort()
            return
        if not self.streams:
            is_amid = self.is_amid_frame or self._block is not None or not self._greeted
            idle = min(limit, _HEAD_SECONDS) if is_amid else _IDLE_SECONDS
            if now - self._quiet_since > idle:
                code = ErrorCode.SETTINGS_TIMEOUT if not self._greeted else ErrorCode.NO_ERROR
                self.fail(code, "idle for too long")
            return
        self._quiet_since = now
        for stream in list(self.streams.values()):
            if now - stream.began <= limit:
                break  # the others are younger
            if not stream.ended and not stream.started:
                stream.sink.refuse(Refusal.LATE)
            elif stream.pending_bytes and now - stream.moved > limit:
                stream.fail(ErrorCode.CANCEL)

    def fail(self, code: ErrorCode, text: str) -> None:
        """Say why, and close."""
        if self._over:
            return
        self.out.write(_frames.goaway(self._last, code, text))
        self.out.flush()
        self._over = True
        self._abandon()
        assert self._transport is not None
        if self._transport.can_write_eof() and not self.out.is_choked:
            self._transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.close)

    def _abandon(self) -> None:
        for stream in list(self.streams.values()):
            stream.abandon()

    def _close_if_done(self) -> None:
        if self._leaving and not self.streams and not self._over and self._transport is not None:
            self.out.flush()
            self._over = True
            self._transport.close()

    # What streams ask of their connection.

    def progressed(self, stream: Stream) -> None:
        """Some of a response is on its way."""
        self._patience.answered()
        if stream.pending_bytes:
            stream.moved = self.endpoint.clock.monotonic()

    def left(self, stream: Stream) -> None:
        """A stream is closed."""
        del self.streams[stream.id]
        self.out.blocked.pop(stream, None)
        if not self.streams:
            self._quiet_since = self.endpoint.clock.monotonic()
            if self._leaving:
                self._close_if_done()

    def hold(self, size: int) -> None:
        """So many bytes more, or less, of bodies are kept for requests that are not complete."""
        self._held_bytes += size
        self.endpoint.held += size

    # What the client sends: DATA.

    def on_data(self, stream: int, size: int) -> None:
        """See `FrameReader`."""
        if self._block is not None or not self._greeted:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA out of place")
        if not size:
            self._patience.lose("empty DATA")
        self._credit -= size
        if self._credit < _WINDOW // 2:
            if self._credit < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the window")
            self.out.write(_frames.window_update(0, _WINDOW - self._credit))
            self._credit = _WINDOW
        self._target = target = self.streams.get(stream)
        if target is None:
            if stream > self._last or not stream % 2:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream}")
            return
        target.credit -= size
        if target.ended:
            target.fail(ErrorCode.STREAM_CLOSED)
        elif target.credit < 0:
            target.fail(ErrorCode.FLOW_CONTROL_ERROR)

    def on_body(self, chunk: bytes | memoryview) -> None:
        """See `FrameReader`."""
        target = self._target
        if target is None or target.closed or target.started:
            return
        target.add(chunk)
        self._came(target, len(chunk))

    def room(self, size: int) -> memoryview | None:
        """See `FrameReader`."""
        target = self._target
        if target is None or target.closed or target.started:
            return None
        return target.room(size)

    def on_placed(self, size: int) -> None:
        """See `FrameReader`."""
        target = self._target
        assert target is not None
        target.placed(size)
        self._came(target, size)

    def _came(self, target: Stream, size: int) -> None:
        self.hold(size)
        endpoint = self.endpoint
        if self._held_bytes > endpoint.most_held_each or endpoint.held > endpoint.most_held:
            target.sink.refuse(Refusal.BUSY)
        elif target.size > target.mark:
            target.sink.progress()

    def on_body_end(self) -> None:
        """See `FrameReader`."""
        target = self._target
        if target is not None and not target.closed:
            self._complete(target)

    def _complete(self, stream: Stream) -> None:
        stream.ended = True
        length = stream.head.content_length
        if length is not None and length != stream.total and not stream.started:
            stream.fail(ErrorCode.PROTOCOL_ERROR)
        else:
            stream.sink.complete()

    # What the client sends: HEADERS.

    def on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """See `FrameReader`."""
        if not self._greeted and (kind != Kind.SETTINGS or flags & Flag.ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS come first")
        if self._block is not None:
            self._continue(kind, flags, stream, payload)
        elif kind == Kind.HEADERS:
            if flags & (Flag.PADDED | Flag.PRIORITY):
                payload = block_of(flags, payload)
            ends = bool(flags & Flag.END_STREAM)
            if flags & Flag.END_HEADERS:
                self._open(stream, payload, ends)
            else:
                self._block, self._block_of = [payload], (stream, ends)
        elif kind == Kind.WINDOW_UPDATE:
            self._widen(stream, payload)
        else:
            self._control(kind, flags, stream, payload)

    def _continue(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        parts, (opened, ends) = self._block, self._block_of
        assert parts is not None
        if kind != Kind.CONTINUATION or stream != opened:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION is missing")
        parts.append(payload)
        if len(parts) > _CONTINUATIONS or sum(map(len, parts)) > HEAD_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the head is too large")
        if flags & Flag.END_HEADERS:
            self._block = None
            self._open(opened, b"".join(parts), ends)

    def _open(self, number: int, block: bytes, ends: bool) -> None:
        """A header block is complete: a request begins, or has trailers."""
        expect(number % 2 == 1, f"HEADERS on stream {number}")
        if number <= self._last:
            self._trailers(number, block, ends)
            return
        self._last = number
        try:
            head = self._heads.head(block)
            if self._leaving or len(self.streams) >= self.endpoint.max_streams:
                raise StreamFault(ErrorCode.REFUSED_STREAM)
        except StreamFault as fault:
            self._patience.lose("requests that are none")
            self.out.reset(number, fault.code)
            return
        stream = Stream(self, number, head, self.endpoint.clock.monotonic())
        self.streams[number] = stream
        stream.ended = ends
        self.endpoint.answer(stream)
        if ends and not stream.closed:
            self._complete(stream)

    def _trailers(self, number: int, block: bytes, ends: bool) -> None:
        try:
            fields = self._heads.fields(block)
            check_fields(fields)
            wrong = not ends
        except StreamFault:
            wrong = True
        stream = self.streams.get(number)
        if stream is None:
            if not self.out.was_reset(number):
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {number}")
            self._patience.lose("HEADERS of streams that are closed")
        elif stream.ended:
            stream.fail(ErrorCode.STREAM_CLOSED)
        elif wrong:
            stream.fail(ErrorCode.PROTOCOL_ERROR)
        else:
            self._complete(stream)

    # What the client sends: the rest.

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._patience.lose("control frames")
        size = len(payload)
        if kind == Kind.SETTINGS:
            self._settle(flags, stream, payload)
        elif kind == Kind.PING:
            expect(stream == 0, "PING on a stream")
            expect(size == 8, "PING of another size", ErrorCode.FRAME_SIZE_ERROR)
            if not flags & Flag.ACK:
                self.out.write(frame(Kind.PING, Flag.ACK, 0, payload))
        elif kind == Kind.RST_STREAM:
            expect(0 < stream <= self._last, "RST_STREAM on an idle stream")
            expect(size == 4, "RST_STREAM of another size", ErrorCode.FRAME_SIZE_ERROR)
            if (found := self.streams.get(stream)) is not None:
                found.abandon()
        elif kind == Kind.PRIORITY:
            expect(stream > 0, "PRIORITY without a stream")
            expect(size == 5, "PRIORITY of another size", ErrorCode.FRAME_SIZE_ERROR)
        elif kind == Kind.GOAWAY:
            expect(stream == 0, "GOAWAY on a stream")
            expect(size >= 8, "GOAWAY of another size", ErrorCode.FRAME_SIZE_ERROR)
        elif kind in (Kind.PUSH_PROMISE, Kind.CONTINUATION):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame out of place")

    def _settle(self, flags: int, stream: int, payload: bytes) -> None:
        expect(stream == 0, "SETTINGS on a stream")
        wrong = len(payload) % _SETTING.size or (flags & Flag.ACK and payload)
        expect(not wrong, "SETTINGS of another size", ErrorCode.FRAME_SIZE_ERROR)
        if flags & Flag.ACK:
            return
        self._greeted = True
        for key, value in _SETTING.iter_unpack(payload):
            self.out.settle(key, value, self.streams)
        self.out.write(frame(Kind.SETTINGS, Flag.ACK, 0))
        self.out.pump()

    def _widen(self, number: int, payload: bytes) -> None:
        self._patience.lose("WINDOW_UPDATE")
        expect(len(payload) == 4, "WINDOW_UPDATE of another size", ErrorCode.FRAME_SIZE_ERROR)
        amount = int.from_bytes(payload, "big") & MOST_WINDOW
        if number == 0:
            self.out.widen(amount)
            return
        expect(number <= self._last, "WINDOW_UPDATE on an idle stream")
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.window += amount
        if not amount:
            stream.fail(ErrorCode.PROTOCOL_ERROR)
        elif stream.window > MOST_WINDOW:
            stream.fail(ErrorCode.FLOW_CONTROL_ERROR)
        elif stream in self.out.blocked:
            self.out.pump()
