"""Compressed requests, inflated to no more than a request may have.

Answers are never compressed: it would cost more than the model, and many clients ask for it (an
`accept-encoding` by default) without wanting it; the gateway is the place for it.
"""

from __future__ import annotations

import zlib

from coalmine.protocol import MalformedRequestError
from coalmine.serving._errors import BodyTooLargeError, EncodingError

__all__ = ["SUPPORTED", "inflate"]

SUPPORTED = "gzip, deflate"
#: Streams that one body may consist of, which gzip allows and hardly anybody sends. What follows
#: one is copied: a body of nothing but empty ones would take minutes.
_STREAMS = 100
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def inflate(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The body as it was before it was compressed; at most `limit` bytes are ever made of it.

    EncodingError for an encoding that is not supported, BodyTooLargeError, MalformedRequestError.

    >>> inflate(zlib.compress(b"text"), "deflate", limit=4)
    b'text'
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    window = _WINDOWS.get(encoding)
    if window is None:
        raise EncodingError(f"bodies in {encoding!r:.40} are not read; supported: {SUPPORTED}")
    parts: list[bytes] = []
    size = 0
    for _ in range(_STREAMS):
        stream = zlib.decompressobj(window)
        try:
            parts.append(stream.decompress(body, limit - size + 1))
        except zlib.error:
            raise MalformedRequestError(f"the body is not {encoding}") from None
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLargeError(f"inflates to more than the {limit} bytes a request may have")
        if not stream.eof:
            raise MalformedRequestError(f"the body is {encoding} that ends too early")
        body = stream.unused_data
        if not body:
            return b"".join(parts)
    raise MalformedRequestError(f"the body is more than {_STREAMS} streams of {encoding}")
