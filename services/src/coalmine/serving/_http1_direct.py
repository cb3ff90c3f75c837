"""HTTP/1.1 as uvicorn has it, with a short way for inference (`_http_door`)."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coalmine.serving._http1_again import Ahead, KnownHead, Rest
from coalmine.serving._http_call import Route
from coalmine.serving._http_door import DirectCall
from coalmine.serving._uvicorn_limits import LimitedProtocol

__all__ = ["DirectProtocol"]

#: URLs remembered, of at most so many bytes each.
_URLS, _URL = 256, 256
#: Bytes of a body that are worth receiving right into their place.
_WORTH = 32 * 1024
#: Heads that are learned from a connection before one of them has come again.
_LESSONS = 8
_routes: dict[bytes, Route | None] = {}


class DirectProtocol(LimitedProtocol):
    """One connection of a server whose inference nothing stands before.

    A connection that waits for its next request has a mark, not a timer: timers would cost every
    request two calls.
    """

    _call: DirectCall | None = None
    _idle = False
    _idle_since: float | None = None
    _written_of: object = None
    _written = b""
    _known: KnownHead | None = None
    _lessons = _LESSONS
    _begun: bytes | None = None
    #: Whether the request of the head that the parser sees next is answered already.
    _answered = False

    def data_received(self, data: bytes) -> None:
        """Switch to receiving in place when a large body is on its way."""
        between = self.is_between
        known = self._known
        if known is not None and between and data.startswith(known.text):
            begin = len(known.text)
            if len(data) == begin + known.length:
                self.repeated(known, memoryview(data)[begin:])
                if known.is_worth_a_place:
                    self.transport.set_protocol(Ahead(self, known))
                return
        self._idle, self._idle_since = False, None
        self._begun = data if between and self._lessons else None
        super().data_received(data)
        call = self._call
        if call is not None and (room := call.room()) is not None and len(room) > _WORTH:
            self.transport.set_protocol(Rest(self, call))

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a request, and none before it waits for an answer."""
        if self._in_head or self.pipeline:
            return False
        cycle = self.cycle
        return cycle is None or (cycle.response_complete and not cycle.more_body)

    def repeated(self, known: KnownHead, body: memoryview) -> None:
        """Answer a request that has come as a whole, with a head that is known."""
        self._idle, self._idle_since = False, None
        self._lessons = _LESSONS
        plane = cast(Any, self.config).serving.plane
        call = DirectCall(self, plane, known.route, known.headers, keep_alive=True)
        self.cycle = cast(Any, call)
        call.take(body)
        self._idle = call.response_complete

    def begun(self, known: KnownHead, body: memoryview, *, received: int) -> None:
        """Go on with a request that has come in part, with a head that is known.

        `body` is where all of it belongs, and so many bytes are there.
        """
        self._idle, self._idle_since = False, None
        self._lessons = _LESSONS
        plane = cast(Any, self.config).serving.plane
        call = DirectCall(self, plane, known.route, known.headers, keep_alive=True)
        self.cycle = cast(Any, call)
        call.receive(body, there=received)
        if call.room() is not None:
            self.transport.set_protocol(Rest(self, call))
            return
        # It is refused: the parser knows where the body ends.
        self._answered = True
        self.transport.set_protocol(self)
        self.data_received(b"".join((known.text, body[:received])))

    def on_message_begin(self) -> None:
        """A head begins; what only ASGI needs is made when it is needed."""
        self._begin_head()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Answer inference directly, and the rest by the application."""
        if self._answered:
            self._answered = self._in_head = False
            return
        if not self._takes_head():
            return
        cycle = self.cycle
        if (cycle is None or cycle.response_complete) and not self.expect_100_continue:
            if self.parser.get_method() == b"POST" and (route := self._route()) is not None:
                self._in_head = False
                self._begin(route)
                return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        super().on_headers_complete()

    def take(self, body: bytes) -> None:
        """To whom it belongs."""
        if self._call is not None:
            self._call.add(body)
        elif not isinstance(self.cycle, DirectCall):
            super().take(body)

    def on_message_complete(self) -> None:
        """The body is there."""
        self._follows = True
        if self._offered:
            return
        call, self._call = self._call, None
        if call is not None:
            call.complete()
        else:
            super().on_message_complete()
        # Of a request that was refused before its end: now the next one may come.
        self._idle = self.cycle is not None and self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Go on with what was pipelined, or wait."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            if not self.flow.write_paused:
                self.flow.resume_reading()
            self._idle = True
        if self._ending:
            self.transport.close()

    def check(self, now: float) -> None:
        """Close what is idle for too long."""
        if not self._idle:
            super().check(now)
        elif self._idle_since is None:
            self._idle_since, self._waiting = now, None
        elif now - self._idle_since > self.timeout_keep_alive:
            # A client that has not read its answer will not read it now.
            (self.transport.abort if self.flow.write_paused else self.transport.close)()

    def pause_writing(self) -> None:
        """A client that does not read what we send need not ask for more."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._idle:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for an answer any more."""
        self._call = None
        super().connection_lost(exc)

    # What a call asks of its connection.

    def defaults(self) -> bytes:
        """The headers of every response, as they are written."""
        headers = self.server_state.default_headers
        if self._written_of is not headers:  # which are others every second
            self._written_of = headers
            self._written = b"".join(b"%b: %b\r\n" % field for field in headers)
        return self._written

    def answered(self, response: bytes, *, keep_alive: bool) -> None:
        """Send a response that is complete."""
        transport = self.transport
        if not transport.is_closing():
            transport.write(response)
            if not keep_alive:
                transport.close()
        self.on_response_complete()

    def body_received(self, call: DirectCall) -> None:
        """A body has come in place; what follows is the next request."""
        if self._call is not None:  # the parser saw its head, and part of its body
            self.begin_parsing()
            self._call = None
        known = self._known
        is_again = known is not None and known.is_worth_a_place
        self.transport.set_protocol(Ahead(self, known) if known and is_again else self)
        call.complete()

    def _begin(self, route: Route) -> None:
        parser = self.parser
        keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        config, headers = cast(Any, self.config), dict(self.headers)
        if (data := self._begun) is not None:
            self._begun = None
            self._lessons -= 1
            self._known = KnownHead.learn(data, route, headers) if keep_alive else None
        call = DirectCall(self, config.serving.plane, route, headers, keep_alive=keep_alive)
        self.cycle = cast(Any, call)
        call.expect(headers)
        self._call = None if call.response_complete else call

    def _route(self) -> Route | None:
        """The inference route of the request, if it is one."""
        url = self.url
        try:
            return _routes[url]
        except KeyError:
            pass
        try:
            path = unquote(httptools.parse_url(url).path.decode("ascii"))
        except (httptools.HttpParserInvalidURLError, UnicodeError, AttributeError):
            return None
        route: Route | None = cast(Any, self.config).serving.inference(path)
        if len(url) <= _URL:
            if len(_routes) >= _URLS:
                _routes.clear()
            _routes[url] = route
        return route
