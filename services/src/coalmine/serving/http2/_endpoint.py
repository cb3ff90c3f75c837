"""What the connections of one server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.serving.http2._stream import Sink, Stream

__all__ = ["Endpoint"]

#: A stream's window is larger than a body may be, so that it need never be widened: whoever
#: sends more is answered that it is too much.
_BEYOND = 64 * 1024


class _Flushed(Protocol):
    def flush(self) -> None: ...


@dataclass
class Endpoint:
    """The bounds of all connections, and who answers their requests."""

    door: Callable[[Stream], Sink]
    """Who answers the request that begins. It may answer at once."""

    connections: set[Any]
    """Those that are open; `uvicorn` shuts them down."""

    max_body: int
    """Bytes of one request."""

    most_held: int
    """Bytes of requests that have not come as a whole, of all connections."""

    receive_timeout: float = 60.0
    """Seconds in which a request must have come as a whole."""

    max_streams: int = 1024
    """Requests at once on one connection."""

    clock: Clock = SYSTEM_CLOCK
    held: int = 0
    _waiting: list[_Flushed] = field(default_factory=list)
    _scheduled: bool = False

    @property
    def stream_window(self) -> int:
        """Bytes that a client may send of one request without being asked for more."""
        return self.max_body + _BEYOND

    @property
    def most_held_each(self) -> int:
        """... of one connection."""
        return max(self.most_held // 4, 2 * self.max_body)

    def answer(self, stream: Stream) -> None:
        """Find who answers, who may do so at once."""
        sink = self.door(stream)
        if not stream.closed:
            stream.sink = sink

    def flush_later(self, connection: _Flushed) -> None:
        """Let a connection send at the end of this turn of the event loop."""
        self._waiting.append(connection)
        self.schedule()

    def schedule(self) -> None:
        """Send after what is scheduled now: a batch that is about to be run, perhaps."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()
