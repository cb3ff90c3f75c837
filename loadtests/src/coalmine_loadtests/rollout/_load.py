"""Requests through the gateway the whole time; what was answered is also the rollout's evidence."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK
from coalmine.stack import read_arms
from coalmine_loadtests.bench import HttpConnection, HttpError
from coalmine_loadtests.rollout._ground import Ground

__all__ = ["Load"]

_EDGES_US = (1000.0, 10_000.0, 100_000.0, 1_000_000.0)
_BODY = b'{"inputs": []}'
_ANSWERED = (200, 422)
"""What a model says itself; everything else is routing that failed."""


@dataclass
class _Counts:
    requests: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(_EDGES_US) + 1))


@dataclass
class Load:
    """A number of connections, each with one request at a time."""

    ground: Ground
    connections: int = 4
    pause: float = 0.01
    """Seconds between two requests of a connection."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    """Requests that no model answered, with what came instead."""

    took: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """Seconds of the last requests that a model answered."""

    awaited: dict[str, asyncio.Future[float]] = field(default_factory=dict)
    """Told, once, when the arm of that name answers next (monotonic)."""

    _blocks: dict[tuple[int, str, str], _Counts] = field(default_factory=dict)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Requests are sent, and evidence is served, while this lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.ground.ports[2])
        tasks = [asyncio.create_task(self._connection()) for _ in range(self.connections)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close()

    async def _connection(self) -> None:
        connection: HttpConnection | None = None
        try:
            while True:
                try:
                    connection = connection or await HttpConnection.open(self.ground.url)
                    await self._request(connection)
                except (HttpError, OSError) as error:
                    self.failed.append(f"{SYSTEM_CLOCK.time():.3f}: {error!r}")
                    connection = None
                await asyncio.sleep(self.pause)
        finally:
            if connection is not None:
                await connection.close()

    async def _request(self, connection: HttpConnection) -> None:
        began = SYSTEM_CLOCK.monotonic()
        self.sent += 1
        status, content = await connection.post("/v2/models/m/infer", _BODY)
        now = SYSTEM_CLOCK.monotonic()
        if status not in _ANSWERED:
            self.failed.append(f"{SYSTEM_CLOCK.time():.3f}: {status} {content[:200]!r}")
            return
        self.took.append(now - began)
        answer = json.loads(content)
        self._count(answer["arm"], answer["version"], ok=status == 200, took=now - began)
        if awaited := self.awaited.pop(answer["arm"], None):
            awaited.set_result(now)

    def _count(self, arm: str, version: str, *, ok: bool, took: float) -> None:
        block = int(SYSTEM_CLOCK.time() / self.ground.block_s)
        counts = self._blocks.setdefault((block, arm, version), _Counts())
        counts.requests += 1
        counts.errors += not ok
        counts.latency[sum(took * 1e6 > edge for edge in _EDGES_US)] += 1

    # -- evidence ---------------------------------------------------------------------------------

    def evidence(self, since: float) -> dict[str, Any]:
        """As the performance monitor's `GET /v1/evidence`; every answer is right, or an error."""
        now = SYSTEM_CLOCK.time()
        old = [key for key in self._blocks if key[0] * self.ground.block_s < now - 120.0]
        for key in old:
            del self._blocks[key]
        return {
            "evaluated_to": int(now / self.ground.block_s) * self.ground.block_s,
            "latency_edges_us": _EDGES_US,
            "blocks": [
                {
                    "time": block * self.ground.block_s,
                    "version": version,
                    "arm": arm,
                    "requests": counts.requests,
                    "errors": counts.errors,
                    "latency_counts": counts.latency,
                    "instances": counts.requests - counts.errors,
                    "labelled": counts.requests - counts.errors,
                    "correct": counts.requests - counts.errors,
                }
                for (block, arm, version), counts in sorted(self._blocks.items())
                if block * self.ground.block_s >= since
            ],
            "pairs": list(self._pairs(since)),
        }

    def _pairs(self, since: float) -> Iterator[dict[str, Any]]:
        """The shadow's answers, which nobody sees: as right as stable's."""
        shadow = read_arms(self.ground.arms_file).arms.get(Arm.SHADOW)
        if shadow is None:
            return
        for (block, arm, version), counts in sorted(self._blocks.items()):
            if arm == Arm.STABLE and block * self.ground.block_s >= since:
                yield {
                    "time": block * self.ground.block_s,
                    "a_version": version,
                    "a_arm": Arm.STABLE,
                    "b_version": shadow.version,
                    "b_arm": Arm.SHADOW,
                    "both_right": counts.requests - counts.errors,
                    "only_a": 0,
                    "only_b": 0,
                    "both_wrong": 0,
                }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                since = float(path.partition("since=")[2] or 0)
                body = json.dumps(self.evidence(since)).encode()
                kind = b"content-type: application/json\r\n"
                length = f"content-length: {len(body)}\r\n\r\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\n" + kind + length + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # A controller was killed.
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
