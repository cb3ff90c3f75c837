"""The REST edge: V1 `:predict` and V2 `infer`, as ASGI."""

from __future__ import annotations

import asyncio
import re

from coalmine.serving._asgi import (
    REQUEST,
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._errors import TooManyRequestsError
from coalmine.serving._http_call import HttpCall, Route, refusal

__all__ = ["HttpEdge", "send_error"]

_ROUTE = re.compile(
    r"/v1/models/(?P<v1>[^/]+):predict"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer"
)
#: Routes remembered, of at most so long paths: those of the models that are served are few.
_ROUTES, _PATH = 256, 256


async def send_error(send: Send, error: Exception, headers: Headers) -> None:
    """Answer with an error, in the protocol's form."""
    await respond(send, *refusal(error, headers))


class HttpEdge:
    """Answers inference requests in JSON and in the binary tensor extension."""

    def __init__(self, plane: Dataplane) -> None:
        self._plane = plane
        self._routes: dict[str, Route | None] = {}

    def match(self, path: str) -> Route | None:
        """The inference route of a path, if it is one."""
        try:
            return self._routes[path]
        except KeyError:
            pass
        match = _ROUTE.fullmatch(path)
        route = None
        if match is not None:
            v1, v2, version = match.groups()
            route = Route("v2", v2, version) if v1 is None else Route("v1", v1, None)
        if len(path) <= _PATH:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes[path] = route
        return route

    async def __call__(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        plane = self._plane
        call = HttpCall(plane, route, dict(scope["headers"]))
        try:
            plane.admit()
        except TooManyRequestsError as error:
            await respond(send, *call.refused(error))
            return
        try:
            await respond(send, 200, *await self._answer(call, scope, receive))
        except ClientGoneError:
            plane.count(call.servable, route.protocol, asyncio.CancelledError(), call.arrived)
        except asyncio.CancelledError as error:
            call.count(error)
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # and not the request alone
                raise
        except Exception as error:
            await respond(send, *call.refused(error))
        finally:
            plane.release()

    async def _answer(
        self, call: HttpCall, scope: Scope, receive: Receive
    ) -> tuple[Headers, bytes]:
        plane = self._plane
        servable = call.find()
        servable.calls += 1
        try:
            headers = dict(scope["headers"])
            limit = plane.limits.max_body
            body = await read_body(headers, receive, limit=limit, arriving=plane.arriving)
            scope[REQUEST] = request = call.prepare(servable, body)
            kind, reply = await plane.infer(servable, request)
        finally:
            servable.calls -= 1
            scope.pop(REQUEST, None)  # which outlives the answer, and must not hold tensors
        return [*kind, (b"x-request-id", request.request_id.encode()), *servable.identity], reply
