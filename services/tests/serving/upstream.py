"""A predictor made of answers, behind which a transformer can be put."""

from __future__ import annotations

import asyncio
import json
from typing import Any

GOOD = {"outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}]}


class Upstream:
    """A predictor made of answers: it keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[Any] = []
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.delay = 0.0
        self.metadata: Any = {
            "name": "toy",
            "versions": ["9"],
            "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, headers, content = 200, {}, self.metadata
        if scope["path"] == "/v2":
            content = {"extensions": []}
        if scope["method"] == "POST":
            self.seen.append({k.decode(): v.decode() for k, v in scope["headers"]})
            self.paths.append(scope["path"])
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            self.bodies.append(json.loads(body))
            status, headers, content = self.answers.pop(0)  # not after: nobody may wait any more
            await asyncio.sleep(self.delay)
        elif content is None:
            status = 404
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": body})
