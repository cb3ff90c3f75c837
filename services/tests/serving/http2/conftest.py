"""A client that says exactly what it is told, to a real connection over a transport of its own."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hpack import Decoder, Encoder
from uvicorn.server import ServerState

from coalmine.clock import ManualClock
from coalmine.serving.http2 import AsgiSink, Connection, Endpoint

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
ACK = END = 1
END_HEADERS, PADDED, PRIORITISED = 4, 8, 32
MAX_BODY = 200_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
    return head + struct.pack(">I", stream) + payload


class Pipe(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.ended = self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a RST_STREAM or a GOAWAY."""
        return int.from_bytes(self.payload[:4] if self.kind == RESET else self.payload[4:8])


@dataclass
class Client:
    """One connection's other side."""

    connection: Connection
    pipe: Pipe
    clock: ManualClock
    encoder: Encoder = field(default_factory=Encoder)
    decoder: Decoder = field(default_factory=Decoder)

    def feed(self, data: bytes, *, pieces: Iterator[int] | None = None) -> None:
        """Let the connection receive, as a transport does."""
        at = 0
        while at < len(data) and not self.pipe.closed:
            room = self.connection.get_buffer(-1)
            size = min(len(room), len(data) - at, next(pieces) if pieces else 1 << 20)
            room[:size] = data[at : at + size]
            self.connection.buffer_updated(size)
            at += size

    def block(self, *more: tuple[str, str], method: str = "POST", path: str = "/echo") -> bytes:
        start = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")]
        return self.encoder.encode([*start, *more])

    def request(self, stream: int, body: bytes = b"", *more: tuple[str, str]) -> bytes:
        """A whole request."""
        head = frame(HEADERS, END_HEADERS | (0 if body else END), stream, self.block(*more))
        parts = [body[i : i + 16384] for i in range(0, len(body), 16384)]
        frames = [frame(DATA, END if p is parts[-1] else 0, stream, p) for p in parts]
        return head + b"".join(frames)

    async def frames(self) -> list[Frame]:
        """What has been written since the last time."""
        for _ in range(8):
            await asyncio.sleep(0)
        data, found = bytes(self.pipe.written), []
        self.pipe.written.clear()
        while data:
            size = int.from_bytes(data[:3])
            stream = int.from_bytes(data[5:9])
            found.append(Frame(data[3], data[4], stream, data[9 : 9 + size]))
            data = data[9 + size :]
        return found

    async def answers(self) -> dict[int, tuple[dict[str, str], bytes]]:
        """Responses that are complete: headers with trailers, and the body, by stream."""
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        ended = set()
        for each in await self.frames():
            if each.kind == HEADERS:
                fields = self.decoder.decode(each.payload)
                heads.setdefault(each.stream, {}).update({str(k): str(v) for k, v in fields})
            elif each.kind == DATA:
                bodies[each.stream] = bodies.get(each.stream, b"") + each.payload
            if each.kind in (HEADERS, DATA) and each.flags & END:
                ended.add(each.stream)
        return {number: (heads[number], bodies.get(number, b"")) for number in ended}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends the body back; `x-repeat` times, if there is that field."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if len(body) > MAX_BODY or not message["more_body"]:
            break
    headers = dict(scope["headers"])
    status = 413 if len(body) > MAX_BODY else 200
    trailers = b"x-trailers" in headers
    start = [(b"x-path", scope["path"].encode()), (b"x-size", b"%d" % len(body))]
    await send(
        {"type": "http.response.start", "status": status, "headers": start, "trailers": trailers}
    )
    times = int(headers.get(b"x-repeat", b"1"))
    for left in reversed(range(times)):
        await send({"type": "http.response.body", "body": body, "more_body": left > 0})
    if trailers:
        await send({"type": "http.response.trailers", "headers": [(b"x-done", b"yes")]})


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Connect:
    """Open a connection; the preface is behind it, the settings too unless told."""

    def open_one(*, app: Any = echo, greet: bool = True, **bounds: Any) -> Client:
        state = ServerState()
        clock = ManualClock()
        endpoint = Endpoint(
            door=lambda stream: AsgiSink(stream, app, state=state, max_body=MAX_BODY),
            connections=state.connections,  # type: ignore[arg-type]
            **{"max_body": MAX_BODY, "most_held": 4 * MAX_BODY, "clock": clock, **bounds},
        )
        connection, pipe = Connection(endpoint), Pipe()
        connection.connection_made(pipe)
        client = Client(connection, pipe, clock)
        if greet:
            client.feed(frame(SETTINGS, 0, 0))
        return client

    return open_one
