"""A server to measure: how it is started, what it understands, and in which cells it takes part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coalmine_loadtests.serving._wire import Wire

__all__ = ["Launch", "Server", "this_one"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start: a model, free ports on 127.0.0.1, and a directory that is the server's alone."""

    python: Path
    peers: Path
    model: Path
    name: str
    http_port: int
    grpc_port: int
    spare_port: int
    """For what the server needs a port for besides: metrics, or its companion."""

    scratch: Path
    replies: Mapping[str, bytes] = field(default_factory=dict)
    """Right answers by path, for a server that only replays them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One way to run one peer."""

    name: str
    """As asked for with `--peer`, which also takes the part before the first dash."""

    title: str
    cells: Sequence[str]
    wire: Wire
    command: Callable[[Launch], Sequence[str]]
    ready: str = "/v2/models/{name}/ready"
    """Path that answers 200 once the model is served."""

    lock: str | None = None
    """`requirements/bench-LOCK.txt`; None: the environment that the benchmark runs in."""

    distributions: tuple[str, ...] = ("onnxruntime",)
    """Of which the versions are told."""

    programs: Mapping[str, str] = field(default_factory=dict)
    """What has to be installed besides, and the Debian package that has it."""

    environment: Callable[[Launch], Mapping[str, str]] = lambda _: {}
    companion: Callable[[Launch], Sequence[str]] | None = None
    """A process that the server sends to, on the core of the load."""

    account: Callable[[Launch], Mapping[str, float]] = lambda _: {}
    """Numbers that the server tells about itself after the load."""

    replays: bool = False
    """It answers one request rightly, whatever is asked: a ceiling, not a server."""

    same_port: bool = False
    """gRPC is on the port of HTTP."""

    ready_s: float = 60.0
    """How long it may take to start."""

    @property
    def peer(self) -> str:
        """The product, of which this is one configuration."""
        return self.name.partition("-")[0]


def this_one(name: str) -> str:
    """`name` of a module of this package, for `python -m`."""
    return f"coalmine_loadtests.serving.{name}"
