"""What a client may get wrong below requests.

Http2Error
├── ConnectionFault    the connection cannot go on: GOAWAY, and it is closed
└── StreamFault        this stream cannot: RST_STREAM; the others go on
"""

from __future__ import annotations

from coalmine.serving.http2._frames import ErrorCode

__all__ = ["ConnectionFault", "Http2Error", "StreamFault", "expect"]


class Http2Error(Exception):
    """The root of the tree. The message is for the client's developer."""

    def __init__(self, code: ErrorCode, text: str = "") -> None:
        super().__init__(text)
        self.code = code


class ConnectionFault(Http2Error):  # the RFC calls it an error of the connection
    """The connection cannot go on."""


class StreamFault(Http2Error):
    """The stream cannot go on."""


def expect(right: bool, text: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
    """ConnectionFault if it is not so."""
    if not right:
        raise ConnectionFault(code, text)
