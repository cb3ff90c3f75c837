"""The request id: the client's if it gave one, else a new UUIDv7, which sorts by time."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from coalmine.clock import Clock

__all__ = ["new_id", "request_id"]

_USABLE = re.compile(r"[\x21-\x7e]{1,128}")
_NAMES = frozenset((b"x-request-id", b"traceparent", b"ce-id", b"x-coalmine-request-id"))
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def request_id(headers: Mapping[bytes, bytes], body_id: str | None, clock: Clock) -> str:
    """First of x-request-id, traceparent, ce-id, the V2 id, and the gateway's own; else a new one.

    One that cannot be a header is skipped. The gateway's own is the same at every arm that sees the
    request, so that a mirrored request without any id still pairs with its original.

    >>> from coalmine.clock import ManualClock
    >>> request_id({b"ce-id": b"c1"}, "v2", ManualClock())
    'c1'
    """
    if _NAMES.isdisjoint(headers):
        return body_id if body_id and _USABLE.fullmatch(body_id) else new_id(clock)
    if (found := _usable(headers.get(b"x-request-id"))) is not None:
        return found
    if (trace := headers.get(b"traceparent")) is not None:
        match = _TRACEPARENT.fullmatch(trace.decode("latin-1"))
        if match is not None:
            return match[1]
    if (found := _usable(headers.get(b"ce-id"))) is not None:
        return found
    if body_id is not None and _USABLE.fullmatch(body_id):
        return body_id
    return _usable(headers.get(b"x-coalmine-request-id")) or new_id(clock)


def _usable(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value.decode("latin-1")
    return text if _USABLE.fullmatch(text) else None


def new_id(clock: Clock) -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits.

    They are there to be different, not to be secret: `random` is seeded by the system, once per
    process, and asking the system each time would let other threads in.
    """
    milliseconds = int(clock.time() * 1000) & (1 << 48) - 1
    value = milliseconds << 80 | random.getrandbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant of RFC 9562
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
