"""A client made of a socket: it sends exactly what it is told, and reads one answer at a time."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

__all__ = ["Answer", "Wire", "exchange"]

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

    def ask(self, request: bytes) -> Answer | None:
        """The answer; None if the server closed the connection without one.

        A connection that the server closed between two requests is opened again once.
        """
        fresh = self._socket is None
        for _ in range(2):
            try:
                connection = self._open()
                connection.sendall(request)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have answered before it closed
            answer = self._read()
            if answer is not None or fresh:
                return answer
            self.close()
            fresh = True
        return None

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


def exchange(port: int, payload: bytes, *, half_close: bool = True) -> bytes:
    """Send bytes, perhaps half-close, and read until the server closes or has no more to say.

    Without a half-close a server may rightly wait for more: a moment of silence ends the reading.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        received = b""
        try:
            connection.sendall(payload)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            else:
                connection.settimeout(0.05)
            while chunk := connection.recv(1 << 16):
                received += chunk
        except TimeoutError:
            assert not half_close, f"no end after {PATIENCE} s to {payload[:200]!r}"
        except OSError:
            pass  # a reset is a fair answer to nonsense
        return received
