"""Posting large bodies over one connection, from a thread, with the standard library only."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Answer", "Poster"]

Rest = Callable[[], Iterable[memoryview]]


class Answer(NamedTuple):
    """What the collector said."""

    status: int
    retry_after: float | None
    """Seconds it asks to wait, if it does."""


class Poster:
    """A kept-alive connection to one URL; not for more than one thread, but for `abort`."""

    def __init__(self, url: str, *, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a collector: http://host:port/path")
        self._path = parts.path or "/"
        self._aborted = False
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)

    def post(self, head: bytes, rest: Rest, *, size: int, headers: Mapping[str, str]) -> Answer:
        """Send a body of `size` bytes: `head`, then the pieces that `rest` gives each time anew.

        OSError or HTTPException if no whole answer came.
        """
        was_open = self._connection.sock is not None
        try:
            return self._post(head, rest, size=size, headers=headers)
        except (ConnectionError, http.client.RemoteDisconnected):
            # A server closes what has been idle for some seconds: no reason to worry anybody.
            if not was_open or self._aborted:
                raise
        return self._post(head, rest, size=size, headers=headers)

    def abort(self) -> None:
        """From another thread: make a `post` that waits for an answer fail at once."""
        self._aborted = True
        sock = self._connection.sock
        if isinstance(sock, socket.socket):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closing already

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, head: bytes, rest: Rest, *, size: int, headers: Mapping[str, str]) -> Answer:
        connection = self._connection
        try:
            connection.putrequest("POST", self._path)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("content-length", str(size))
            connection.endheaders(head)
            for piece in rest():
                connection.send(piece)
            response = connection.getresponse()
            response.read()
        except BaseException:
            connection.close()
            raise
        return Answer(response.status, _seconds(response.getheader("retry-after")))


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None  # a date: our collector sends seconds
