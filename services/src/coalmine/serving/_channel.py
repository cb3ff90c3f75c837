"""Requests both ways over one stream socket: how the processes of a server talk to its supervisor.

A message is a length (four bytes) and a JSON object: a request has `op` and `args`, an answer
`result` or `error`. An error of `_errors` crosses as itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from coalmine.serving import _errors

__all__ = ["Channel", "ChannelClosedError", "call_now"]

_log = logging.getLogger("coalmine.serving")
_LENGTH = struct.Struct(">I")


class ChannelClosedError(_errors.ServingError):
    """The process at the other end is gone."""


class Channel:
    """One end of a connection. `handle` answers the other's requests, each in a task of its own."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handle: Callable[[str, dict[str, Any]], Awaitable[Any]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def over(
        cls, sock: socket.socket, handle: Callable[[str, dict[str, Any]], Awaitable[Any]]
    ) -> Channel:
        """A channel over a connected socket, which it owns from now on."""
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer, handle)

    async def run(self) -> None:
        """Read until the other end closes; then all that is asked fails with ChannelClosedError."""
        try:
            while True:
                message = await _read(self._reader)
                if "op" in message:
                    task = asyncio.create_task(self._answer(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (future := self._asked.pop(message["id"], None)) and not future.done():
                    _settle(future, message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(ChannelClosedError("the process is gone"))
            self._asked.clear()
            self._writer.close()

    async def request(self, op: str, **args: Any) -> Any:
        """Ask the other end. Raises what it raised, or ChannelClosedError."""
        if self._writer.is_closing():
            raise ChannelClosedError("the process is gone")
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(_pack({"id": number, "op": op, "args": args}))
            return await future
        finally:
            self._asked.pop(number, None)

    async def _answer(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": message["id"]}
        try:
            answer["result"] = await self._handle(message["op"], message["args"])
        except Exception as error:
            if not isinstance(error, _errors.ServingError):
                _log.exception("%s failed", message["op"])
            answer["error"] = [type(error).__name__, str(error)]
        if not self._writer.is_closing():
            self._writer.write(_pack(answer))


def call_now(sock: socket.socket, op: str, **args: Any) -> Any:
    """Ask the other end before there is an event loop here. Blocks."""
    sock.sendall(_pack({"id": -1, "op": op, "args": args}))
    with sock.makefile("rb") as file:
        # One request is on its way at a time, and nothing is sent unasked yet.
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        message = json.loads(file.read(length))
    if "error" in message:
        raise _error(message)
    return message["result"]


def _pack(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return _LENGTH.pack(len(data)) + data


async def _read(reader: asyncio.StreamReader) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    message: dict[str, Any] = json.loads(await reader.readexactly(length))
    return message


def _settle(future: asyncio.Future[Any], message: dict[str, Any]) -> None:
    if "error" in message:
        future.set_exception(_error(message))
    else:
        future.set_result(message["result"])


def _error(message: dict[str, Any]) -> Exception:
    name, text = message["error"]
    kind = getattr(_errors, name, None)
    if isinstance(kind, type) and issubclass(kind, _errors.ServingError):
        return kind(text)
    return RuntimeError(f"{name}: {text}")
