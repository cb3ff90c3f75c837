"""What supervisors, probes and clients ask before they send anything: health, readiness, metadata.

Answered here and not by KServe's application, which takes seconds of CPU to import (`_kserve`): a
restarted arm is ready without it. KServe 0.21 also has `"versions": null` in the metadata and no
versioned paths.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from coalmine.serving._asgi import Headers, Message, Send, respond
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._errors import ModelNotReadyError, ServingError, UnknownModelError
from coalmine.serving._http import send_error
from coalmine.serving._servable import Servable

__all__ = ["Probes"]

_JSON = (b"content-type", b"application/json")
_MODEL = re.compile(
    r"/v1/models/(?P<v1>[^/:]+)"
    r"|/v2/models/(?P<v2>(?!stats$)[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<ready>/ready)?"
)


_LISTS = ("/v1/models", "/v2/models")
_FIXED = ("/", "/metrics", "/v2", "/v2/", "/v2/health/live", "/v2/health/ready", *_LISTS)
_ALLOW = (b"allow", b"GET, HEAD")


class Probes:
    """GET and HEAD requests that need no model to run."""

    def __init__(self, plane: Dataplane, *, render: Callable[[], Awaitable[bytes]]) -> None:
        self._plane = plane
        self._render = render

    async def __call__(self, method: str, path: str, send: Send) -> bool:
        """Answer the request if it is for one of our paths; whether it was."""
        route = _MODEL.fullmatch(path)
        if route is None and path not in _FIXED:
            return False
        if method not in ("GET", "HEAD"):
            refusal = {"error": f"{path:.200} is asked by GET, not {method:.40}"}
            await respond(send, 405, [_JSON, _ALLOW], orjson.dumps(refusal))
            return True
        await self._answer(path, route, _without_body(send) if method == "HEAD" else send)
        return True

    async def _answer(self, path: str, route: re.Match[str] | None, send: Send) -> None:
        if path == "/metrics":
            await self._metrics(send)
        elif path in ("/", "/v2/health/live"):
            await self._send(send, {"status": "alive"} if path == "/" else {"live": True})
        elif path == "/v2/health/ready":
            await self._ready(send)
        elif path in _LISTS:
            names = [servable.name for servable in self._plane.repository.serving()]
            await self._send(send, {"models": names})
        elif route is not None:
            await self._model(route, send)
        else:
            await self._send(send, self._plane.server_metadata())

    async def _metrics(self, send: Send) -> None:
        try:
            body = await self._render()
        except ServingError as error:  # no answer is better than counts that jump back
            await self._send(send, {"error": str(error)}, status=503)
            return
        text = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
        await respond(send, 200, [text], body)

    async def _ready(self, send: Send) -> None:
        ready = self._plane.ready
        content: dict[str, Any] = {"ready": ready}
        reasons = {s.name: s.reason for s in self._plane.repository.slots() if s.reason}
        if reasons:
            content["reasons"] = reasons  # of a model that serves: why a newer version does not
        await self._send(send, content, status=200 if ready else 503)

    async def _model(self, route: re.Match[str], send: Send) -> None:
        name = route["v1"] or route["v2"]
        try:
            servable = self._plane.serve(name, route["version"])
        except (UnknownModelError, ModelNotReadyError) as error:
            await send_error(send, error, self._plane.identity(None))
            return
        if route["v1"] is None and route["ready"] is None:
            await self._send(send, self._plane.model_metadata(servable), servable)
        elif not self._plane.ready:
            await self._send(send, {"error": f"model {name} is not ready"}, servable, status=503)
        else:
            content: dict[str, Any] = {"name": name, "ready": True}
            if reason := self._plane.repository.slot(name).reason:
                content["reason"] = reason
            await self._send(send, content, servable)

    async def _send(
        self,
        send: Send,
        content: dict[str, Any],
        servable: Servable | None = None,
        *,
        status: int = 200,
    ) -> None:
        headers: Headers = [_JSON, *self._plane.identity(servable)]
        await respond(send, status, headers, orjson.dumps(content))


def _without_body(send: Send) -> Send:
    """The same headers, as HEAD wants it."""

    async def headers_only(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return headers_only
