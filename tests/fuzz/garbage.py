"""Nonsense below requests: HTTP/1.1 on a socket, and frames of HTTP/2."""

from __future__ import annotations

import random
import struct

from .cases import V2_PATH
from .trees import corrupt, dump, valid_v2

__all__ = ["frame", "http1", "http2", "literal", "rapid_reset", "request"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9


def http1(rng: random.Random) -> bytes:
    """Bytes that are not, or not quite, one request of HTTP/1.1."""
    body = dump(valid_v2(rng))
    line = f"POST {V2_PATH} HTTP/1.1\r\nhost: x\r\n".encode()
    close = b"connection: close\r\n"
    good = line + close + b"content-length: %d\r\n\r\n" % len(body) + body
    chunked = line + close + b"transfer-encoding: chunked\r\n\r\n"
    return rng.choice(
        (
            lambda: rng.randbytes(rng.choice([1, 10, 200, 5000])),
            lambda: corrupt(rng, good),
            lambda: good[: rng.randrange(len(good))],
            lambda: good.replace(
                b"HTTP/1.1", rng.choice([b"HTTP/9.9", b"HTTP/1", b"", b"HTTP/1.0"]), 1
            ),
            lambda: line + b"content-length: -5\r\n\r\n" + body,
            lambda: (
                line
                + b"content-length: %s\r\n\r\n"
                % rng.choice([b"9" * 40, b"1e3", b"", b"+5", b"0x5"])
            ),
            lambda: line + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + body,
            lambda: line + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + body,
            lambda: (
                line
                + b"transfer-encoding: %s\r\n\r\n"
                % rng.choice([b"gzip", b"xchunked", b"chunked, x"])
            ),
            lambda: chunked + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
            lambda: (
                chunked
                + rng.choice([b"zz\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", b"5;" + b"e" * 9000])
            ),
            lambda: chunked + b"5\r\nabc\r\n0\r\n\r\n",
            lambda: line + b"".join(b"x-%d: y\r\n" % n for n in range(2000)) + b"\r\n",
            lambda: line + b"x-long: " + b"y" * 100_000 + b"\r\n\r\n",
            lambda: line + b"bad header line\r\n: novalue\r\n\x00: x\r\n\r\n",
            lambda: line + b"x: a\r\n b\r\n\tfolded\r\ncontent-length: 0\r\n\r\n",
            lambda: b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 50 + close,
            lambda: good * 3,
            lambda: b"\r\n" * 100 + good,
            lambda: good.replace(b"\r\n", b"\n"),
            lambda: b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
            lambda: (
                line
                + b"upgrade: %s\r\nconnection: upgrade\r\n\r\n" % rng.choice([b"h2c", b"websocket"])
            ),
            lambda: (
                line + close + b"expect: 100-continue\r\ncontent-length: 10\r\n\r\n" + body[:10]
            ),
            lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        )
    )()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload
    )


def literal(name: bytes, value: bytes) -> bytes:
    """A header of HPACK, never indexed, with lengths below 127."""
    return b"\x10" + bytes((len(name),)) + name + bytes((len(value),)) + value


def request(path: str = V2_PATH, *more: bytes) -> bytes:
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"x"),
        (b":path", path.encode()),
    )
    return b"".join(literal(name, value) for name, value in fields) + b"".join(more)


def http2(rng: random.Random) -> bytes:
    """A connection of HTTP/2 that breaks its rules somewhere."""
    body = dump(valid_v2(rng))[:10_000]
    start = PREFACE + frame(SETTINGS, 0, 0)
    post = frame(HEADERS, 4, 1, request())
    grpc = request(
        "/inference.GRPCInferenceService/ModelInfer", literal(b"content-type", b"application/grpc")
    )
    nonsense = b"".join(
        frame(
            rng.randrange(256),
            rng.randrange(256),
            rng.choice([0, 1, 2, 3, 2**31 - 1]),
            rng.randbytes(rng.randrange(60)),
        )
        for _ in range(rng.randrange(1, 20))
    )
    return rng.choice(
        (
            lambda: start + nonsense,
            lambda: start + post + nonsense,
            lambda: start + post + frame(DATA, 1, 1, body),
            lambda: start + post + frame(DATA, 0, 1, body),
            lambda: start + frame(DATA, 1, 1, body),
            lambda: start + frame(HEADERS, 5, 2, request()),
            lambda: start + frame(HEADERS, 4, 1, rng.randbytes(80)),
            lambda: start + frame(HEADERS, 0, 1, request()) + frame(DATA, 1, 1, body),
            lambda: start + frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 300,
            lambda: start + b"".join(frame(PING, 0, 0, bytes(8)) for _ in range(500)),
            lambda: start + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)),
            lambda: start + b"".join(frame(SETTINGS, 0, 0) for _ in range(200)),
            lambda: start + post + frame(WINDOW, 0, 1, struct.pack(">I", 0)),
            lambda: start + frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 3,
            lambda: start + post + frame(GOAWAY, 0, 0, bytes(8)) + frame(DATA, 1, 1, body),
            lambda: start + post + frame(RESET, 0, 1, bytes(4)) + frame(DATA, 1, 1, body),
            lambda: (
                start
                + frame(HEADERS, 4, 1, grpc)
                + frame(DATA, 1, 1, rng.randbytes(rng.randrange(40)))
            ),
            lambda: (
                start + frame(HEADERS, 4, 1, grpc) + frame(DATA, 0, 1, struct.pack(">BI", 0, 100))
            ),
            lambda: start + frame(DATA, 0, 0, b"") + b"\xff\xff\xff" + rng.randbytes(50),
            lambda: corrupt(rng, start + post + frame(DATA, 1, 1, body)),
            lambda: PREFACE[: rng.randrange(3, len(PREFACE))],
        )
    )()


def rapid_reset(rng: random.Random, streams: int = 200) -> bytes:
    """Requests that are taken back as soon as they are sent (CVE-2023-44487)."""
    parts = [PREFACE, frame(SETTINGS, 0, 0)]
    for number in range(streams):
        stream = 2 * number + 1
        body = dump(valid_v2(rng))
        parts.append(frame(HEADERS, 4, stream, request()))
        parts.append(frame(DATA, rng.randrange(2), stream, body))
        parts.append(frame(RESET, 0, stream, struct.pack(">I", 8)))
    return b"".join(parts)
