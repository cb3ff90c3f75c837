"""Clients made of a socket: they send exactly what they are told, as slowly as they are told."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field

__all__ = ["Answer", "Manner", "Wire", "exchange"]

#: Seconds until a silent server is called hung.
PATIENCE = 20.0


@dataclass(frozen=True)
class Answer:
    """A response of HTTP/1.1."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """A connection that is opened again when the server has closed it."""

    port: int
    _socket: socket.socket | None = field(default=None, init=False)
    _held: bytes = field(default=b"", init=False)
    _sent: bytes = field(default=b"", init=False)
    _fresh: bool = field(default=True, init=False)

    def ask(self, request: bytes) -> Answer | None:
        """The answer; None if the server closed the connection without one."""
        self.send(request)
        return self.receive()

    def send(self, request: bytes) -> None:
        """Send a request, whose answer is to be received before the next."""
        self._sent, self._fresh = request, self._socket is None
        try:
            self._open().sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have answered before it closed

    def receive(self) -> Answer | None:
        """The answer to what was sent; None if the server closed the connection without one.

        A connection that the server closed between two requests is opened again once.
        """
        answer = self._read()
        if answer is None and not self._fresh:
            self.send(self._sent)
            answer = self._read()
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._held = None, b""

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _more(self) -> bool:
        assert self._socket is not None
        try:
            chunk = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._held += chunk
        return bool(chunk)

    def _read(self) -> Answer | None:
        while True:
            while b"\r\n\r\n" not in self._held:
                if not self._more():
                    self.close()
                    return None
            head, self._held = self._held.split(b"\r\n\r\n", 1)
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
            if status != 100:
                break
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self._body(status, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body)

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self._line(), 16):
                parts.append(self._exactly(size))
                self._line()
            while self._line():
                pass
            return b"".join(parts)
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        while self._more():
            pass
        body, self._held = self._held, b""
        self.close()
        return body

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            assert self._more(), "the answer ends too early"
        line, self._held = self._held.split(b"\r\n", 1)
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            assert self._more(), "the answer ends too early"
        data, self._held = self._held[:size], self._held[size:]
        return data


@dataclass(frozen=True)
class Manner:
    """How a client sends what it has to say, and what it does then."""

    pieces: tuple[bytes, ...]
    pause: float = 0.0
    """Seconds between two pieces."""

    ending: str = "listen"
    """`half-close`: it says that there is no more, and reads until the server closes.
    `listen`: it reads until the server has been silent for a moment; a server may wait for more.
    `wait`: it reads until the server closes. `leave`, `reset`: it goes without reading."""

    @property
    def sent(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


def exchange(port: int, manner: Manner) -> bytes:
    """What the server answers."""
    ending, received = manner.ending, b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, piece in enumerate(manner.pieces):
                if number:
                    time.sleep(manner.pause)
                connection.sendall(piece)
            if ending == "half-close":
                connection.shutdown(socket.SHUT_WR)
            elif ending == "listen":
                connection.settimeout(0.2)
            elif ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            while ending not in ("leave", "reset") and (chunk := connection.recv(1 << 16)):
                received += chunk
        except TimeoutError:
            assert ending == "listen", f"no end after {PATIENCE} s to {manner.sent[:200]!r}"
        except OSError:
            pass  # a reset is a fair answer to nonsense
        return received
