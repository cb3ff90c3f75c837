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

from coalmine.serving._asgi import Headers, Send, respond
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._errors import ModelNotReadyError, ServingError, UnknownModelError
from coalmine.serving._http import send_error
from coalmine.serving._servable import Servable

__all__ = ["Probes"]

_JSON = (b"content-type", b"application/json")
_MODEL = re.compile(
    r"/v1/models/(?P<v1>[^/:]+)"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<ready>/ready)?"
)


class Probes:
    """GET requests that need no model to run."""

    def __init__(self, plane: Dataplane, *, render: Callable[[], Awaitable[bytes]]) -> None:
        self._plane = plane
        self._render = render

    async def __call__(self, path: str, send: Send) -> bool:
        """Answer the request if it is one of ours; whether it was."""
        if path == "/metrics":
            await self._metrics(send)
            return True
        if path in ("/", "/v2/health/live"):
            await self._send(send, {"status": "alive"} if path == "/" else {"live": True})
            return True
        if path == "/v2":
            await self._send(send, self._plane.server_metadata())
            return True
        if path == "/v2/health/ready":
            await self._ready(send)
            return True
        route = _MODEL.fullmatch(path)
        if route is None:
            return False
        await self._model(route, send)
        return True

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
