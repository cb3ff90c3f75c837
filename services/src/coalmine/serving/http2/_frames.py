"""The frames of HTTP/2 (RFC 9113): their numbers, and how they are written."""

from __future__ import annotations

import struct
from enum import IntEnum

__all__ = [
    "HEADER",
    "PREFACE",
    "ErrorCode",
    "Flag",
    "Kind",
    "Setting",
    "frame",
    "goaway",
    "reset",
    "settings",
    "window_update",
]

#: What a client says first.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Length (24 bits, in two parts), kind, flags, stream.
HEADER = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")


class Kind:
    """Kinds of frames. Plain numbers: they are compared for every frame."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Flags; ACK and END_STREAM are the same bit of different frames."""

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """What each side tells the other about itself."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame.

    >>> frame(Kind.PING, Flag.ACK, 0, b"12345678")
    b'\\x00\\x00\\x08\\x06\\x01\\x00\\x00\\x00\\x0012345678'
    """
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return frame(Kind.SETTINGS, 0, 0, payload)


def window_update(stream: int, amount: int) -> bytes:
    """So many more bytes may be sent."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, amount.to_bytes(4, "big"))


def reset(stream: int, code: ErrorCode) -> bytes:
    """The stream ends here."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """No stream after `last` is, or was, answered."""
    payload = last.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()[:200]
    return frame(Kind.GOAWAY, 0, 0, payload)
