"""How much of what costs us something and brings nobody an answer a client may send."""

from __future__ import annotations

from coalmine.serving.http2._errors import ConnectionFault
from coalmine.serving.http2._frames import ErrorCode

__all__ = ["Patience"]

_MOST = 2000
_EACH_SECOND = 500
_EACH_ANSWER = 4


class Patience:
    """Of one connection: pings, settings, resets, empty frames and the like use it up.

    Time gives it back, and so does every answer: a client that works may well send some of these
    with each request. This is what bounds the floods that HTTP/2 makes cheap (CVE-2019-9512 to
    9518, CVE-2023-44487).
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MOST

    def lose(self, what: str) -> None:
        """One more of those; ConnectionFault when there were too many."""
        self._left -= 1
        if self._left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many frames: {what}")

    def answered(self) -> None:
        """A request was answered, or some of an answer was sent."""
        self._left = min(self._left + _EACH_ANSWER, _MOST)

    def wait(self, seconds: float) -> None:
        """So much time went by."""
        self._left = min(self._left + int(seconds * _EACH_SECOND), _MOST)
