"""A small arm for the gateway's tests: says who it is, over HTTP/1.1, HTTP/2 and gRPC."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

ARM = os.environ.get("ARM", "?")
SEEN: list[dict[str, Any]] = []


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = await read_body(receive)
    if scope["path"] == "/seen":
        answer: Any = SEEN
    else:
        answer = {
            "arm": ARM,
            "http": scope["http_version"],
            "host": headers.get("host"),
            "bytes": len(body),
            "id": headers.get("x-request-id"),
            "own_id": headers.get("x-coalmine-request-id"),
        }
        SEEN.append(answer)
    await asyncio.sleep(float(headers.get("x-delay", "0")))
    content = json.dumps(answer).encode()
    if headers.get("content-type", "").startswith("application/grpc"):
        await answer_grpc(content, send)
        return
    kind = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    await send({"type": "http.response.body", "body": content})


async def answer_grpc(content: bytes, send: Any) -> None:
    kind = [(b"content-type", b"application/grpc")]
    await send({"type": "http.response.start", "status": 200, "headers": kind, "trailers": True})
    frame = b"\0" + len(content).to_bytes(4, "big") + content
    await send({"type": "http.response.body", "body": frame})
    trailers = [(b"grpc-status", b"0")]
    await send({"type": "http.response.trailers", "headers": trailers})
