"""The servers that are measured, one module a peer; `SERVERS` by name, in the report's order."""

from __future__ import annotations

from coalmine_loadtests.serving._server import Server
from coalmine_loadtests.serving.peers import (
    bentoml,
    coalmine,
    kserve,
    litserve,
    mlserver,
    nginx,
    ray,
    triton,
)

__all__ = ["SERVERS"]

_ALL = (
    *coalmine.SERVERS,
    *kserve.SERVERS,
    *triton.SERVERS,
    *mlserver.SERVERS,
    *bentoml.SERVERS,
    *litserve.SERVERS,
    *ray.SERVERS,
    *nginx.SERVERS,
)

SERVERS: dict[str, Server] = {server.name: server for server in _ALL}
