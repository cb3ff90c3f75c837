"""One request's headers on their way to the predictor, and the predictor's on their way back.

The edges know nothing of a predictor. Around them stands this: it keeps the client's headers where
the servable finds them (a context variable, of the task that answers the request), and puts who
answered into the response. An arm is a transformer and a predictor of one version, so arm and
version are those of the predictor.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from coalmine.clock import Clock
from coalmine.serving._asgi import Headers, Message, Receive, Scope, Send
from coalmine.serving._ids import new_id, request_id

__all__ = ["Exchange", "exchanging"]

_FALLBACK_ID = b"x-coalmine-request-id"
_current: ContextVar[Exchange] = ContextVar("exchange")


@dataclass(slots=True)
class Exchange:
    """A client's request: the headers it has, and who answered it."""

    headers: dict[bytes, bytes]
    answered: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def current() -> Exchange:
        """Of the request that this task answers; an empty one outside any."""
        return _current.get(Exchange({}))

    def texts(self) -> dict[str, str]:
        """The headers as text."""
        return {k.decode("latin-1"): v.decode("latin-1") for k, v in self.headers.items()}

    def request_id(self, body_id: str | None, clock: Clock) -> str:
        """The id that the edge gives the same request."""
        return request_id(self.headers, body_id, clock)


async def exchanging(
    edge: Any, scope: Scope, receive: Receive, send: Send, *, clock: Clock
) -> None:
    """Answer with `edge`, as part of an exchange."""
    headers: Headers = list(scope["headers"])
    if not any(name == _FALLBACK_ID for name, _ in headers):
        # The last resort of `request_id`: the edge and the predictor get the same one.
        headers.append((_FALLBACK_ID, new_id(clock).encode()))
    exchange = Exchange(dict(headers))

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start" and exchange.answered:
            theirs = [(k.encode(), v.encode("latin-1")) for k, v in exchange.answered.items()]
            ours = [
                item for item in message["headers"] if item[0].decode() not in exchange.answered
            ]
            message = {**message, "headers": [*ours, *theirs]}
        await send(message)

    token = _current.set(exchange)
    try:
        scope["headers"] = headers  # not in a copy: servers read what edges leave in theirs
        await edge(scope, receive, answer)
    finally:
        _current.reset(token)
