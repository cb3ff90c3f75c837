"""The lean HTTP connection, against what servers and gateways send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coalmine_loadtests.bench import HttpConnection, HttpError


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """A server that sends these bytes, one after each request, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def test_plain_and_chunked_answers_on_one_connection() -> None:
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    chunks = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    chunked = b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    async with answering(plain, chunked) as url:
        connection = await HttpConnection.open(url)
        assert await connection.post("/a", b"x" * 5) == (200, b"{}")
        assert await connection.post("/b", b"") == (201, b"abc0123456789")
        await connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
    ],
    ids=["closed", "nonsense", "no length", "cut short"],
)
async def test_an_answer_that_is_none(answer: bytes) -> None:
    async with answering(answer) as url:
        connection = await HttpConnection.open(url)
        with pytest.raises(HttpError):
            await connection.post("/", b"{}")
        await connection.close()
