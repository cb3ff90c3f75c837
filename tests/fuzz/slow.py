"""Clients that take their time, stop in the middle, or say that they are done and go on reading."""

from __future__ import annotations

import random

from . import garbage
from .cases import V2_PATH, Post, http_post
from .trees import dump, valid_v2
from .wire import Manner

__all__ = ["patient", "slowly", "stalled"]

_CLOSE = (("connection", "close"),)


def _good(rng: random.Random) -> Post:
    return Post(V2_PATH, dump(valid_v2(rng)), _CLOSE)


def _chunked(post: Post) -> bytes:
    head = post.wire().split(b"\r\n\r\n")[0].rpartition(b"\r\n")[0]
    body = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part)
        for part in (post.body[at : at + 100] for at in range(0, len(post.body), 100))
    )
    return head + b"\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def _split(rng: random.Random, data: bytes) -> tuple[bytes, ...]:
    """The data in a few pieces of any size."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))
    ends = [0, *cuts, len(data)]
    return tuple(data[a:b] for a, b in zip(ends, ends[1:], strict=False) if b > a)


def _pause(rng: random.Random) -> float:
    return rng.choice([0.0, 0.001, 0.02, 0.1])


def patient(rng: random.Random) -> Manner:
    """A good request, piece by piece; the client waits for its answer."""
    post = _good(rng)
    data = _chunked(post) if rng.random() < 0.4 else post.wire()
    return Manner(_split(rng, data), _pause(rng), "wait")


def slowly(rng: random.Random) -> Manner:
    """Anything, in pieces, with any end."""
    what = rng.random()
    if what < 0.4:
        post = http_post(rng)
        data = Post(post.path, post.body, post.headers + _CLOSE, post.method).wire()
    elif what < 0.6:
        data = garbage.http1(rng)
    elif what < 0.8:
        data = garbage.http2(rng)
    else:
        data = _good(rng).wire()
    if rng.random() < 0.5:
        data = data[: rng.randrange(1, len(data) + 1)]
    ending = rng.choice(["half-close", "half-close", "half-close", "listen", "leave", "reset"])
    return Manner(_split(rng, data), _pause(rng), ending)


def stalled(rng: random.Random) -> Manner:
    """The beginning of a request, and nothing more: the server is to end it."""
    data = _good(rng).wire()
    return Manner(_split(rng, data[: rng.randrange(1, len(data))]), _pause(rng), "wait")
