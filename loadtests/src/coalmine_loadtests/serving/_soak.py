"""Many requests to one server, with its memory looked at all along."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coalmine_loadtests.bench._server import free_ports
from coalmine_loadtests.serving._cells import CELLS
from coalmine_loadtests.serving._client import connect
from coalmine_loadtests.serving._environments import PEERS, Environments, repository
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._load import Loader
from coalmine_loadtests.serving._machine import Cores
from coalmine_loadtests.serving._models import MODELS, write_model
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._session import started
from coalmine_loadtests.serving._verify import Reference, Verifier

__all__ = ["Soak", "soak"]

_CELL = CELLS["mlp/json1_c64"]
_SLICE_S = 2.0
#: Requests after which the allocator and every cache have what they will have.
_WARM_UP = 20_000


@dataclass(frozen=True, slots=True)
class Soak:
    """`samples` are requests answered so far and the server's RSS in MB; the first is warm."""

    server: str
    requests: int
    samples: list[tuple[int, float]]

    @property
    def growth_mb(self) -> float:
        """From the warm server to the last sample."""
        return self.samples[-1][1] - self.samples[0][1]

    def as_dict(self) -> dict[str, Any]:
        """For the results."""
        return {**asdict(self), "growth_mb": self.growth_mb}


def soak(
    server: Server,
    *,
    requests: int,
    cores: Cores,
    environments: Environments,
    tell: Callable[[str], None],
) -> Soak:
    """One-row V2 JSON over 64 connections; `ServingBenchError` at the first wrong answer."""
    samples: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="coalmine-soak-") as scratch:
        directory = Path(scratch)
        model = write_model(MODELS[_CELL.model], directory)
        verifier = Verifier(_CELL, server.wire, Reference(model))
        http, grpc, spare = free_ports(3)
        launch = Launch(
            python=environments.python(server.lock), peers=repository() / PEERS, model=model,
            name=_CELL.model, http_port=http, grpc_port=grpc, spare_port=spare, scratch=directory,
        )  # fmt: skip
        with started(server, launch, cores=cores) as session:
            client = connect(_CELL, http_port=http, grpc_port=grpc)
            loader = Loader(
                _CELL, verifier.request, verifier.verify(client), http_port=http, grpc_port=grpc,
                core=cores.load, scratch=directory,
            )  # fmt: skip
            answered = 0
            while not samples or answered < samples[0][0] + requests:
                load = loader.run(_SLICE_S)
                if load.errors:
                    raise ServingBenchError(f"soak: {load.told}")
                verifier.verify(client)
                answered += load.requests
                if samples or answered >= min(_WARM_UP, requests):
                    rss = session.process.memory().rss_mb
                    samples.append((answered, rss))
                    tell(f"soak  {server.name}  {answered:>12,} requests  RSS {rss:7.1f} MB")
            client.close()
    return Soak(server.name, answered - samples[0][0], samples)
