"""An HTTP/1.1 connection that does little: the client shares the machine with what it measures.

HttpError      an answer that is no HTTP, or a connection that ended within one
"""

from __future__ import annotations

import asyncio
from typing import Self
from urllib.parse import urlsplit

__all__ = ["HttpConnection", "HttpError"]

_MAX_HEAD = 64 * 1024


class HttpError(Exception):
    """An answer that is no HTTP, or a connection that ended within one."""


class HttpConnection:
    """One kept connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the host and port of a URL."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or 80, limit=_MAX_HEAD
        )
        return cls(reader, writer)

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and content of the answer to a JSON body."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        try:
            lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            status = int(lines[0].split(b" ", 2)[1])
            headers = dict(line.lower().split(b":", 1) for line in lines[1:] if line)
            if headers.get(b"transfer-encoding", b"").strip() == b"chunked":
                return status, await self._chunks()
            return status, await self._reader.readexactly(int(headers[b"content-length"]))
        except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
            raise HttpError(f"no HTTP answer: {error!r}") from error
        except asyncio.LimitOverrunError as error:
            raise HttpError("the head of the answer is too long") from error

    async def _chunks(self) -> bytes:
        content = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            content += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readuntil(b"\r\n")
        return content

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # the other side was quicker
