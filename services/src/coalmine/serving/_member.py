"""One of several processes of a server, towards their supervisor (`_hub`)."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coalmine.serving._channel import Channel, call_now
from coalmine.serving._child import LINK_VARIABLE
from coalmine.serving._errors import ServingError
from coalmine.serving._merge import Family
from coalmine.serving._ports import is_listening
from coalmine.serving._repository import Plan, Prepared, Repository

__all__ = ["Link"]

_POLL = 0.005
#: A supervisor that does not answer a scrape for so long is stuck, in seconds.
_SCRAPE = 3.0


class Link:
    """The connection to the supervisor: loads and unloads for all processes, counts for all.

    Before there is an event loop it answers `served` and `version`; `start` makes it a channel.
    """

    def __init__(self, sock: socket.socket, *, index: int) -> None:
        self.index = index
        self._socket = sock
        self._channel: Channel | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._prepared: dict[str, Prepared] = {}
        self._repository: Repository | None = None
        self._registry: CollectorRegistry | None = None

    @classmethod
    def inherited(cls) -> Link | None:
        """The link this process was started with; None if it serves alone."""
        given = os.environ.pop(LINK_VARIABLE, None)
        if given is None:
            return None
        index, number = map(int, given.split(":"))
        sock = socket.socket(fileno=number)
        sock.set_inheritable(False)
        return cls(sock, index=index)

    def served(self) -> list[Plan] | None:
        """What the other processes serve; None in the first one. Blocks."""
        plans = call_now(self._socket, "served")
        return None if plans is None else [Plan(**plan) for plan in plans]

    def version(self, model: str, *, declared: str | None, digest: str | None) -> str:
        """What all processes call this content (see `VersionLedger`). Blocks."""
        found: str = call_now(
            self._socket, "version", model=model, declared=declared, digest=digest
        )
        return found

    async def start(
        self, repository: Repository, registry: CollectorRegistry, *, ports: list[int]
    ) -> None:
        """Answer the supervisor, and tell it once this process listens."""
        self._repository = repository
        self._registry = registry
        self._channel = await Channel.over(self._socket, self._handle)
        self._tasks = [
            asyncio.create_task(self._channel.run()),
            asyncio.create_task(self._join(ports)),
        ]

    async def close(self) -> None:
        """Stop answering."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def load(self, name: str) -> None:
        """Load in all processes, or in none."""
        await self._ask("load", name=name)

    async def unload(self, name: str) -> None:
        """Unload in all processes."""
        await self._ask("unload", name=name)

    async def render(self) -> bytes:
        """The Prometheus text of all processes. ServingError if the supervisor does not answer."""
        try:
            async with asyncio.timeout(_SCRAPE):
                families = await self._ask("scrape", families=self._families())
        except TimeoutError:
            raise ServingError("the supervisor does not answer") from None
        return generate_latest(_Families([Family.of(each) for each in families]))

    async def _ask(self, op: str, **args: Any) -> Any:
        if self._channel is None:
            raise ServingError("the server is starting")
        return await self._channel.request(op, **args)

    async def _join(self, ports: list[int]) -> None:
        while not all(is_listening(port) for port in ports):
            await asyncio.sleep(_POLL)
        assert self._repository is not None
        plans = [
            asdict(slot.plan) for slot in self._repository.slots() if slot.servable and slot.plan
        ]
        await self._ask("join", plans=plans)

    async def _handle(self, op: str, args: dict[str, Any]) -> Any:
        repository = self._repository
        assert repository is not None
        match op:
            case "find":
                return asdict(await repository.find(args["name"]))
            case "prepare":
                plan = Plan(**args["plan"])
                self._drop(plan.name)
                self._prepared[str(plan.name)] = await repository.prepare(plan)
            case "commit":
                if (prepared := self._prepared.pop(args["name"], None)) is not None:
                    repository.commit(prepared)
            case "abort":
                self._drop(args["name"])
            case "note":
                repository.note(args["name"], args["reason"])
            case "unload":
                await repository.unload(args["name"])
            case "ping":
                pass
            case "collect":
                return self._families()
        return None

    def _drop(self, name: str | None) -> None:
        if self._repository is not None and (old := self._prepared.pop(str(name), None)):
            self._repository.abort(old)

    def _families(self) -> list[Family]:
        assert self._registry is not None
        return [
            Family(
                metric.name,
                metric.type,
                metric.documentation,
                [(sample.name, dict(sample.labels), sample.value) for sample in metric.samples],
            )
            for metric in self._registry.collect()
        ]


class _Families(Collector):
    """Families of all processes, for the text format."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        found = []
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            found.append(metric)
        return found
