"""Posting batches over one connection, from a thread, with nothing but the standard library."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Answer", "Poster"]


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
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send one body; OSError or HTTPException if no whole answer came."""
        try:
            self._connection.request("POST", self._path, body, dict(headers))
            response = self._connection.getresponse()
            response.read()
        except BaseException:
            self._connection.close()
            raise
        return Answer(response.status, _seconds(response.getheader("retry-after")))

    def abort(self) -> None:
        """From another thread: make a `post` that waits for an answer fail at once."""
        sock = self._connection.sock
        if isinstance(sock, socket.socket):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closing already

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None  # a date: our collector sends seconds
