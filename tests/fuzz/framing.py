"""gRPC on HTTP/2 by hand: messages framed wrongly, in frames of any size, some taken back."""

from __future__ import annotations

import gzip
import random
import socket
import struct

from hpack import Decoder

from .cases import grpc_request
from .garbage import DATA, GOAWAY, HEADERS, PREFACE, RESET, SETTINGS, frame, literal, request
from .wire import PATIENCE

__all__ = ["Statuses", "call_many"]

#: The status of each stream; None for one that was reset.
Statuses = dict[int, str | None]
_PATH = "/inference.GRPCInferenceService/ModelInfer"
_TYPE = literal(b"content-type", b"application/grpc") + literal(b"te", b"trailers")
_END, _END_HEADERS, _PADDED = 1, 4, 8
#: A frame may have 16 KB unless the server says otherwise; padding and its length are of it too.
_PART = 16_384 - 30


def _framed(payload: bytes, flag: int = 0, more: int = 0) -> bytes:
    return struct.pack(">BI", flag, max(0, len(payload) + more)) + payload


def _body(rng: random.Random) -> tuple[bytes, bytes]:
    """What a call sends, which is rarely one message; and more fields of its head."""
    payload = grpc_request(rng)
    packed = gzip.compress(payload)
    zipped = literal(b"grpc-encoding", b"gzip")
    odd = rng.choice([b"", b"9", b"9999999S", b"\xff", b"a" * 120])
    return rng.choice(
        (
            lambda: (_framed(payload), b""),
            lambda: (_framed(payload, more=rng.choice([1, -1, 100, 2**31])), b""),
            lambda: (_framed(payload)[: rng.randrange(6)], b""),
            lambda: (_framed(payload)[: rng.randrange(len(payload) + 5)], b""),
            lambda: (b"", b""),
            lambda: (_framed(payload) * rng.choice([2, 50]), b""),
            lambda: (_framed(payload, flag=1), b""),
            lambda: (_framed(payload, flag=rng.randrange(2, 256)), b""),
            lambda: (_framed(packed, flag=1), zipped),
            lambda: (_framed(packed[: rng.randrange(len(packed))], flag=1), zipped),
            lambda: (_framed(payload, flag=1), zipped),
            lambda: (_framed(gzip.compress(bytes(3_000_000)), flag=1), zipped),
            lambda: (_framed(packed, flag=1), literal(b"grpc-encoding", b"snappy")),
            lambda: (_framed(rng.randbytes(rng.choice([10, 1000, 60_000]))), b""),
            lambda: (_framed(bytes(2_000_000)), b""),
            lambda: (
                _framed(payload),
                literal(b"grpc-timeout", odd),
            ),
            lambda: (
                _framed(payload),
                literal(b"x-request-id", odd),
            ),
        )
    )()


def _pieces(rng: random.Random, stream: int) -> tuple[list[bytes], bool]:
    """The frames of one call, and whether it is to be answered."""
    body, more = _body(rng)
    frames = [frame(HEADERS, _END_HEADERS, stream, request(_PATH, _TYPE, more))]
    leaves = rng.random() < 0.15
    if leaves:
        body = body[: rng.randrange(len(body) + 1)]
    while body:
        size = rng.choice([1, 5, 1000, _PART])
        if len(body) > 100_000:
            size = _PART
        part, body = body[:size], body[size:]
        if rng.random() < 0.2:
            pad = rng.randrange(30)
            frames.append(frame(DATA, _PADDED, stream, bytes((pad,)) + part + bytes(pad)))
        else:
            frames.append(frame(DATA, 0, stream, part))
    if leaves:
        frames.append(frame(RESET, 0, stream, struct.pack(">I", 8)))
    elif rng.random() < 0.2:
        frames.append(frame(HEADERS, _END_HEADERS | _END, stream, literal(b"x-trailer", b"y")))
    else:
        frames.append(frame(DATA, _END, stream))
    return frames, not leaves


def call_many(rng: random.Random, port: int) -> Statuses:
    """Some calls on one connection, their frames mixed; what the server says to each."""
    sent = PREFACE + frame(SETTINGS, 0, 0)
    waiting, queues = set(), []
    for number in range(rng.randrange(1, 8)):
        frames, answered = _pieces(rng, 2 * number + 1)
        sent += frames.pop(0)
        queues.append(frames)
        if answered:
            waiting.add(2 * number + 1)
    while queues:
        queue = rng.choice(queues)
        sent += queue.pop(0)
        queues = [each for each in queues if each]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        return _read(connection, waiting)


def _read(connection: socket.socket, waiting: set[int]) -> Statuses:
    decoder, found = Decoder(), Statuses()
    with connection.makefile("rb") as file:
        while not waiting <= found.keys():
            head = file.read(9)
            assert len(head) == 9, f"no answer to {waiting - found.keys()}"
            payload = file.read(int.from_bytes(head[:3], "big"))
            kind, stream = head[3], int.from_bytes(head[5:9], "big")
            assert kind != GOAWAY, payload
            if kind == RESET:
                found.setdefault(stream, None)
            elif kind == HEADERS:
                fields = {str(name): str(value) for name, value in decoder.decode(payload)}
                if "grpc-status" in fields:
                    found[stream] = fields["grpc-status"]
    return found
