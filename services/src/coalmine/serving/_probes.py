"""What supervisors, probes and clients ask before they send anything: health, readiness, metadata.

Answered here and not by KServe's application, which takes seconds of CPU to import (`_kserve`): a
restarted arm is ready without it. KServe 0.21 also has `"versions": null` in the metadata and no
versioned paths.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from coalmine.serving._asgi import Headers, Send, respond
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._errors import UnknownModelError
from coalmine.serving._http import arm_headers, send_error

__all__ = ["Probes"]

_JSON = (b"content-type", b"application/json")
_MODEL = re.compile(
    r"/v1/models/(?P<v1>[^/:]+)"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<ready>/ready)?"
)


class Probes:
    """GET requests that need no model to run."""

    def __init__(self, plane: Dataplane) -> None:
        self._plane = plane
        self._arm = arm_headers(plane)

    async def __call__(self, path: str, send: Send) -> bool:
        """Answer the request if it is one of ours; whether it was."""
        if path == "/metrics":
            text = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
            await respond(send, 200, [text], self._plane.metrics.render())
            return True
        if path in ("/", "/v2/health/live"):
            await self._send(send, {"status": "alive"} if path == "/" else {"live": True})
            return True
        if path == "/v2":
            await self._send(send, self._plane.server_metadata())
            return True
        if path == "/v2/health/ready":
            ready = self._plane.ready
            await self._send(send, {"ready": ready}, status=200 if ready else 503)
            return True
        route = _MODEL.fullmatch(path)
        if route is None:
            return False
        await self._model(route, send)
        return True

    async def _model(self, route: re.Match[str], send: Send) -> None:
        name = route["v1"] or route["v2"]
        try:
            self._plane.serve(name, route["version"])
        except UnknownModelError as error:
            await send_error(send, error, self._arm)
            return
        if route["v1"] is None and route["ready"] is None:
            await self._send(send, self._plane.model_metadata())
        elif self._plane.ready:
            await self._send(send, {"name": name, "ready": True})
        else:
            await self._send(send, {"error": f"model {name} is not ready"}, status=503)

    async def _send(self, send: Send, content: dict[str, Any], *, status: int = 200) -> None:
        headers: Headers = [_JSON, *self._arm]
        await respond(send, status, headers, orjson.dumps(content))
