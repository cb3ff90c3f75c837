"""The model repository extension over REST: what is here, load, unload.

Paths and bodies are Triton's, the answers of load and unload KServe's (Triton's are empty).
"""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol

import orjson

from coalmine.protocol import MalformedRequestError
from coalmine.serving._asgi import (
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from coalmine.serving._http import send_error
from coalmine.serving._repository import ModelState, Repository, Slot
from coalmine.serving._status import http_status

__all__ = ["REPOSITORY", "Control", "Management", "check_parameters", "index"]

_log = logging.getLogger("coalmine.serving")
REPOSITORY = "/v2/repository/"
_JSON = (b"content-type", b"application/json")
_PATH = re.compile(
    REPOSITORY + r"(?:(?P<index>(?:[^/]+/)?index)|models/(?P<name>[^/]+)/(?P<verb>load|unload))"
)
_MAX_BODY = 1024**2
#: Parameters that change nothing here: no model of ours depends on another.
_HARMLESS = ("unload_dependents",)


class Control(Protocol):
    """Who loads and unloads: the repository of this process, or of all processes together."""

    async def load(self, name: str) -> None:
        """Load a model or its newest version; UnknownModelError, ModelLoadError."""

    async def unload(self, name: str) -> None:
        """Stop serving a model; UnknownModelError."""


def index(repository: Repository, *, ready_only: bool) -> list[dict[str, str]]:
    """The models as the repository extension lists them."""
    return [
        _entry(slot)
        for slot in repository.slots()
        if not ready_only or slot.state is ModelState.READY
    ]


def check_parameters(names: list[str]) -> None:
    """MalformedRequestError for what a load or an unload cannot do."""
    for name in names:
        if name == "config" or name.startswith("file:"):
            raise MalformedRequestError(
                f"parameter {name!r:.100}: this server loads models from its own source only; "
                "change the files there and load without it"
            )
        if name not in _HARMLESS:
            raise MalformedRequestError(f"unknown parameter {name!r:.100}")


class Management:
    """Answers the extension's paths."""

    def __init__(self, repository: Repository, control: Control) -> None:
        self._repository = repository
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a path that begins with `REPOSITORY`."""
        route = _PATH.fullmatch(scope["path"])
        if route is None:
            await self._send(send, {"error": f"nothing is at {scope['path']:.200}"}, 404)
            return
        if scope["method"] != "POST":
            refusal = {"error": "the model repository is asked by POST"}
            await self._send(send, refusal, 405, (b"allow", b"POST"))
            return
        try:
            body = await read_body(dict(scope["headers"]), receive, limit=_MAX_BODY)
            answer = await self._answer(route, _object(body))
        except ClientGoneError:
            return
        except Exception as error:
            if http_status(error) == 500:
                _log.error("%s failed", scope["path"], exc_info=error)
            await send_error(send, error, [])
            return
        await self._send(send, answer)

    async def _answer(self, route: re.Match[str], content: dict[str, Any]) -> Any:
        if route["index"] is not None:
            ready = content.get("ready", False)
            if not isinstance(ready, bool):
                raise MalformedRequestError("`ready` must be true or false")
            await self._repository.discover()
            return index(self._repository, ready_only=ready)
        parameters = content.get("parameters", {})
        if not isinstance(parameters, dict):
            raise MalformedRequestError("`parameters` must be an object")
        check_parameters(list(parameters))
        name = route["name"]
        if route["verb"] == "load":
            await self._control.load(name)
        else:
            await self._control.unload(name)
        return {"name": name, route["verb"]: True}

    @staticmethod
    async def _send(send: Send, content: Any, status: int = 200, *headers: Any) -> None:
        every: Headers = [_JSON, *headers]
        await respond(send, status, every, orjson.dumps(content))


def _entry(slot: Slot) -> dict[str, str]:
    version = "" if slot.plan is None or slot.plan.version is None else slot.plan.version
    return {"name": slot.name, "version": version, "state": slot.state, "reason": slot.reason}


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise MalformedRequestError("the body must be a JSON object")
    return content
