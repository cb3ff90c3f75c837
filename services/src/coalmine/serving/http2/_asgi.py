"""Any request, answered by an ASGI application (with response trailers, which gRPC needs)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from uvicorn.server import ServerState

from coalmine.serving._asgi import App, Headers, Message, Scope
from coalmine.serving.http2._frames import ErrorCode
from coalmine.serving.http2._heads import encode
from coalmine.serving.http2._stream import Refusal, Stream

__all__ = ["AsgiSink"]

_log = logging.getLogger("coalmine.serving")
_VERSIONS = {"version": "3.0", "spec_version": "2.3"}
_EXTENSIONS: dict[str, Any] = {"http.response.trailers": {}}
#: Of a response that may wait for the client to read before the application goes on.
_PENDING = 256 * 1024
_OF_HTTP1 = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
#: As HTTP and as gRPC: 408 and DEADLINE_EXCEEDED, 503 and UNAVAILABLE.
_REFUSED = {Refusal.LATE: (408, b"4"), Refusal.BUSY: (503, b"14")}


class AsgiSink:
    """One request on its way through the application."""

    def __init__(
        self,
        stream: Stream,
        app: App,
        *,
        state: ServerState,
        max_body: int,
        server: tuple[str, int] | None = None,
        client: tuple[str, int] | None = None,
    ) -> None:
        self._stream = stream
        self._app = app
        self._left = False
        self._given = False
        self._event = asyncio.Event()
        self._head: tuple[int, Headers] | None = None
        self._trailers = False
        self._is_head = stream.head.method == "HEAD"
        stream.mark = max_body
        scope = self._scope(server, client)
        self._task = asyncio.get_running_loop().create_task(self._run(scope))
        self._defaults = state.default_headers
        state.tasks.add(self._task)
        self._task.add_done_callback(state.tasks.discard)

    # The connection's side.

    def progress(self) -> None:
        """More than may be: the application sees it, and says so."""
        self._event.set()

    def complete(self) -> None:
        """The body is there."""
        self._event.set()

    def refuse(self, why: str) -> None:
        """Answer instead of the application."""
        stream = self._stream
        if self._left or stream.started:
            return
        self._left = True
        status, code = _REFUSED[why]
        if stream.head.headers.get(b"content-type", b"").startswith(b"application/grpc"):
            fields = [(b"content-type", b"application/grpc"), (b"grpc-status", code)]
            stream.respond(encode([*fields, (b"grpc-message", why.encode())], status=200), b"")
        else:
            kind = (b"content-type", b"application/json")
            stream.respond(encode([kind], status=status), orjson.dumps({"error": why}))
        self._task.cancel()

    def gone(self) -> None:
        """The client left."""
        self._left = True
        self._event.set()
        self._task.cancel()

    def sent(self) -> None:
        """The application may go on."""
        self._event.set()

    # The application's side.

    async def _run(self, scope: Scope) -> None:
        stream = self._stream
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            if not self._left:  # at the server's end
                stream.fail(ErrorCode.CANCEL)
            return
        except Exception:
            _log.exception("the application failed")
        if not stream.closed and not stream.finishing and not self._left:
            self._left = True
            if stream.started:
                stream.fail(ErrorCode.INTERNAL_ERROR)
            else:
                stream.respond(encode([], status=500), b"")

    async def _receive(self) -> Message:
        stream = self._stream
        while not self._left:
            if stream.ended or stream.size > stream.mark:
                if not self._given:
                    self._given = stream.ended
                    body = bytes(stream.take())
                    return {"type": "http.request", "body": body, "more_body": not stream.ended}
                if stream.closed:
                    break
            self._event.clear()
            await self._event.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        stream = self._stream
        if self._left or stream.closed:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._head = (message["status"], message["headers"])
            self._trailers = message.get("trailers", False)
        elif kind == "http.response.body":
            await self._body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.trailers" and not message.get("more_trailers", False):
            stream.trail(encode(message["headers"]))

    async def _body(self, body: bytes, *, more: bool) -> None:
        stream = self._stream
        ends = not more and not self._trailers
        if self._is_head:
            body = b""
        if self._head is not None:
            status, headers = self._head
            self._head = None
            lowered = [(name.lower(), value) for name, value in (*headers, *self._defaults)]
            plain = [field for field in lowered if field[0] not in _OF_HTTP1]
            stream.start(encode(plain, status=status), end=ends and not body)
        stream.send(body, end=ends)
        while more and stream.pending_bytes > _PENDING and not self._left and not stream.closed:
            self._event.clear()
            await self._event.wait()

    def _scope(self, server: tuple[str, int] | None, client: tuple[str, int] | None) -> Scope:
        head = self._stream.head
        return {
            "type": "http",
            "asgi": _VERSIONS,
            "http_version": "2",
            "server": server,
            "client": client,
            "scheme": "http",
            "method": head.method,
            "root_path": "",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.fields,
            "state": {},
            "extensions": _EXTENSIONS,
        }
