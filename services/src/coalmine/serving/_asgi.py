"""What the edges share: ASGI's types, a bounded body, a whole response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from coalmine.serving._errors import BodyTooLargeError, QueueFullError

__all__ = [
    "REQUEST",
    "App",
    "Arriving",
    "ClientGoneError",
    "Edge",
    "Headers",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "read_body",
    "respond",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
#: Answers requests of one kind; its last three arguments are those of an App.
Edge = Callable[..., Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
#: Where a scope has the request that is being answered; a server that learns that the client left
#: abandons it, which costs less than a task that listens for it.
REQUEST = "coalmine.request"


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete; nobody to answer."""


class Arriving:
    """Bytes of bodies that have not come as a whole yet, of all requests together."""

    __slots__ = ("_most", "size")

    def __init__(self, *, most: float) -> None:
        self._most = most
        self.size = 0

    def add(self, size: int) -> None:
        """So many more are held, until they are taken from `size`; QueueFullError for too many."""
        self.size += size
        if self.size > self._most:
            raise QueueFullError(f"{self._most:.0f} bytes of requests are on their way already")


async def read_body(
    headers: dict[bytes, bytes], receive: Receive, *, limit: int, arriving: Arriving | None = None
) -> bytes:
    """The whole body; BodyTooLargeError before more than `limit` bytes are held."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(f"{int(announced)} bytes, but a request may have {limit}")
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            if not more and not chunks and len(chunk) <= limit:
                return chunk  # nearly always the first chunk is the whole body: no copy
            size += len(chunk)
            if arriving is not None:
                arriving.add(len(chunk))
            if size > limit:
                raise BodyTooLargeError(f"more than the {limit} bytes that a request may have")
            chunks.append(chunk)
            if not more:
                return b"".join(chunks)
    finally:
        if arriving is not None:
            arriving.size -= size


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a response in one piece."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})
