"""What the supervisor does for the processes of a server together: models, and metrics.

A load is found and prepared by the process that was asked, then prepared by all others, and
committed by all only when all could: otherwise every process goes on as it was. The supervisor
itself loads nothing; it remembers what is served, so that a process that is started again serves
the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from coalmine.serving._channel import Channel, ChannelClosedError
from coalmine.serving._errors import ModelLoadError, ServingError
from coalmine.serving._merge import Family, counts_only, merged
from coalmine.serving._versions import VersionLedger

__all__ = ["Hub", "Member"]

_log = logging.getLogger("coalmine.serving")
#: How long a scrape waits for a process that does not answer, in seconds.
_SCRAPE = 1.0

PlanData = dict[str, Any]


class Member:
    """One process, as the hub knows it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.channel: Channel | None = None
        self.joined = False
        self.silent = False
        """Whether it did not answer the last scrape in time."""

        self.restarts = 0
        self.seen: list[Family] = []
        """What it counted when it was last asked."""

    @property
    def state(self) -> str:
        """For `coalmine_server_processes`."""
        if self.channel is None:
            return "restarting" if self.restarts else "starting"
        if not self.joined:
            return "starting"
        return "silent" if self.silent else "ready"


class Hub:
    """The members of one server, and what they serve."""

    def __init__(self, members: list[Member]) -> None:
        self._members = members
        self._ledger = VersionLedger()
        self._changing = asyncio.Lock()
        self._served: dict[str, PlanData] | None = None
        self._ended: list[Family] = []

    async def handle(self, member: Member, op: str, args: dict[str, Any]) -> Any:
        """Answer a request of a member."""
        match op:
            case "served":
                return None if self._served is None else list(self._served.values())
            case "version":
                return self._ledger.version(**args)
            case "join":
                return await self._join(member, args["plans"])
            case "load":
                return await self._load(member, args["name"])
            case "unload":
                return await self._unload(args["name"])
            case "scrape":
                return await self._scrape(member, [Family.of(each) for each in args["families"]])
        raise ServingError(f"no such request: {op}")

    def left(self, member: Member) -> None:
        """A member is gone: what it counted stays counted."""
        member.channel = None
        member.joined = member.silent = False
        self._ended = merged([self._ended, counts_only(member.seen)])
        member.seen = []

    def _joined(self) -> list[Member]:
        return [member for member in self._members if member.joined]

    async def _join(self, member: Member, plans: list[PlanData]) -> None:
        """A member is ready: see that it serves what the others do."""
        async with self._changing:
            found = {plan["name"]: plan for plan in plans}
            if self._served is None:
                self._served = found
                for plan in plans:
                    self._ledger.version(
                        plan["name"], declared=plan["version"], digest=plan["digest"]
                    )
            assert member.channel is not None
            for name in found.keys() - self._served.keys():
                await member.channel.request("unload", name=name)
            for name, plan in self._served.items():
                if name not in found:
                    await member.channel.request("prepare", plan=plan)
                    await member.channel.request("commit", name=name)
            member.joined = True
            changed = [name for name, plan in found.items() if self._served.get(name, plan) != plan]
        for name in changed:  # its source has other content than when the others loaded it
            try:
                await self._load(member, name)
            except ServingError:
                _log.warning("the processes serve different versions of %s", name)

    async def _load(self, asked: Member, name: str) -> None:
        async with self._changing:
            assert asked.channel is not None
            try:
                plan: PlanData = await asked.channel.request("find", name=name)
                declared, digest = plan["version"], plan["digest"]
                plan["version"] = self._ledger.version(name, declared=declared, digest=digest)
                await asked.channel.request("prepare", plan=plan)
            except ModelLoadError as error:
                await self._tell("note", name=name, reason=str(error), but=asked)
                raise
            others = [member for member in self._joined() if member is not asked]
            for failure in await self._ask(others, "prepare", plan=plan):
                if failure is None or isinstance(failure, ChannelClosedError):
                    continue  # one that died meanwhile starts again with what is served then
                await self._tell("abort", name=name)
                await self._tell("note", name=name, reason=str(failure))
                raise failure
            assert self._served is not None
            self._served[name] = plan
            await self._tell("commit", name=name)

    async def _unload(self, name: str) -> None:
        async with self._changing:
            outcomes = await self._ask(self._joined(), "unload", name=name)
            assert self._served is not None
            self._served.pop(name, None)
            for failure in outcomes:
                if failure is not None and not isinstance(failure, ChannelClosedError):
                    raise failure

    async def _tell(self, op: str, *, but: Member | None = None, **args: Any) -> None:
        """Ask all; one that is gone meanwhile will start with what is served."""
        members = [member for member in self._joined() if member is not but]
        for failure in await self._ask(members, op, **args):
            if failure is not None and not isinstance(failure, ChannelClosedError):
                raise failure

    async def _ask(self, members: list[Member], op: str, **args: Any) -> list[Exception | None]:
        async def ask(member: Member) -> Exception | None:
            try:
                if member.channel is not None:
                    await member.channel.request(op, **args)
            except Exception as error:
                return error
            return None

        return list(await asyncio.gather(*(ask(member) for member in members)))

    async def _scrape(self, asked: Member, families: list[Family]) -> list[Family]:
        asked.seen, asked.silent = families, False
        others = [member for member in self._joined() if member is not asked]
        await asyncio.gather(*(self._collect(member) for member in others))
        seen = [member.seen for member in self._members]
        return merged([*seen, self._ended, self._own()])

    async def _collect(self, member: Member) -> None:
        """Ask a member what it counted; what it said before stands if it does not say in time."""
        assert member.channel is not None
        try:
            async with asyncio.timeout(_SCRAPE):
                families = await member.channel.request("collect")
        except TimeoutError:
            if not member.silent:
                _log.warning("process %d does not answer", member.index)
            member.silent = True
        except ServingError:
            pass  # it is gone; `left` keeps what it counted
        else:
            member.seen, member.silent = [Family.of(each) for each in families], False

    def _own(self) -> list[Family]:
        states = [member.state for member in self._members]
        processes = "coalmine_server_processes"
        restarts = "coalmine_server_process_restarts"
        return [
            Family(
                processes,
                "gauge",
                "Processes of this server, by what they do; the counts of a silent one are old.",
                [
                    (processes, {"state": state}, float(states.count(state)))
                    for state in ("starting", "ready", "silent", "restarting")
                ],
            ),
            Family(
                restarts,
                "counter",
                "Processes of this server that ended and were started again.",
                [(f"{restarts}_total", {}, float(sum(m.restarts for m in self._members)))],
            ),
        ]
