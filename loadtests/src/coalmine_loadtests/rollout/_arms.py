"""The arms' servers, small: one process that follows `arms.json` and listens where an arm should.

    python -m coalmine_loadtests.rollout._arms ARMS_JSON NAME ARM=PORT...

Each answers the two questions by which a rollout knows that a version is up, and everything else
with its arm and version. Every other request to version `sick-...` fails.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from coalmine.arms import Arm
from coalmine.stack import read_arms
from coalmine_loadtests.rollout._registry import SICK

__all__ = ["ArmServer"]

_POLL = 0.02
#: What a model server takes to start.
_START_UP = 0.1
_FAILS_EVERY = 2


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with kept connections; requests of a content length only, as Envoy sends them."""

    def __init__(self, server: ArmServer) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, _, length = head.partition(b"content-length:")
            whole = end + 4 + int(length.split(b"\r\n", 1)[0] or 0)
            if len(self._buffer) < whole:
                return
            path = self._buffer.split(b" ", 2)[1].decode()
            self._buffer = self._buffer[whole:]
            status, content = self._server.answer(path)
            body = json.dumps(content).encode()
            self._transport.write(
                b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )


class ArmServer:
    """One version on one arm."""

    def __init__(self, arm: Arm, version: str, *, name: str) -> None:
        self._arm = arm
        self._version = version
        self._model = f"/v2/models/{name}"
        self._answered = 0
        self.connections: set[asyncio.Transport] = set()

    async def start(self, port: int) -> None:
        """Listen, after the time that a start takes."""
        await asyncio.sleep(_START_UP)
        loop = asyncio.get_running_loop()
        while True:
            try:
                made = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port)
                break
            except OSError:  # Somebody's outgoing connection has the port for a moment.
                await asyncio.sleep(_POLL)
        self._listener = made

    async def stop(self) -> None:
        """No new connections; those that there are answer what they have, and end."""
        self._listener.close()
        await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.close()
        await self._listener.wait_closed()

    def answer(self, path: str) -> tuple[int, object]:
        """Status and content."""
        if path == f"{self._model}/ready":
            return 200, {"ready": True}
        if path == self._model:
            return 200, {"name": self._model, "versions": [self._version]}
        self._answered += 1
        if self._version.startswith(SICK) and self._answered % _FAILS_EVERY == 0:
            # An answer of the model's, not one that the gateway would ask for again.
            return 422, {"error": "sick", "arm": self._arm, "version": self._version}
        return 200, {"arm": self._arm, "version": self._version}


async def _follow(path: Path, *, name: str, ports: dict[Arm, int]) -> None:
    running: dict[Arm, tuple[str, ArmServer]] = {}
    while True:
        wanted = {arm: model.version for arm, model in read_arms(path).arms.items()}
        for arm, (version, server) in list(running.items()):
            if wanted.get(arm) != version:
                del running[arm]
                await server.stop()
        for arm, version in wanted.items():
            if arm not in running:
                server = ArmServer(arm, version, name=name)
                await server.start(ports[arm])
                running[arm] = (version, server)
        await asyncio.sleep(_POLL)


def main() -> None:
    """Run until killed."""
    path, name, *listed = sys.argv[1:]
    pairs = (each.split("=") for each in listed)
    asyncio.run(_follow(Path(path), name=name, ports={Arm(arm): int(port) for arm, port in pairs}))


if __name__ == "__main__":
    main()
