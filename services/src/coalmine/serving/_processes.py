"""`--processes N`: a supervisor and N servers that share a port.

Each server is the one that runs alone otherwise, in a process of its own; the kernel spreads
connections over them (SO_REUSEPORT). The supervisor starts them, kills what hangs, starts again
what dies, and ends them all. It holds the port, so that nobody else takes it while the servers
load, and a socket to each (`_hub`): there is no file that a `kill -9` could leave behind, and the
kernel kills the servers when the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace

from coalmine.clock import SYSTEM_CLOCK
from coalmine.serving._channel import Channel
from coalmine.serving._child import LINK_VARIABLE, PARENT_VARIABLE
from coalmine.serving._hub import Hub, Member
from coalmine.serving._logging import configure_logging
from coalmine.serving._options import OPTIONS_VARIABLE, ServeOptions, where
from coalmine.serving._ports import hold_port
from coalmine.serving._watchdog import watch

__all__ = ["run"]

_log = logging.getLogger("coalmine.serving")
_FIRST_DELAY, _LAST_DELAY = 0.1, 10.0
#: A process that served for so long starts again without delay when it dies.
_HEALTHY = 30.0
#: What a server needs besides its drain: the last records, its own way out.
_MARGIN = 4.0


def run(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    configure_logging()
    with ExitStack() as held:
        port = held.enter_context(hold_port(options.host, options.port))
        if options.grpc_port is not None:
            held.enter_context(hold_port(options.host, options.grpc_port))
        return asyncio.run(_Supervisor(replace(options, port=port)).run())


class _Supervisor:
    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._members = [Member(index) for index in range(options.processes)]
        self._hub = Hub(self._members)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._killed = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._stop)
        first, *others = self._members
        keepers: list[asyncio.Task[None]] = []
        try:
            # The first shows whether the model can be served, and fetches it; once, not N times.
            for group in ([first], others):
                started = [asyncio.Event() for _ in group]
                tasks = [
                    asyncio.create_task(self._keep(member, event))
                    for member, event in zip(group, started, strict=True)
                ]
                keepers += tasks
                if not await self._all_ready(started, tasks):
                    return 0 if self._stopping.is_set() else 1
            print(f"http://{self._options.host}:{self._options.port}", flush=True)
            _log.info("ready: %d processes at %s", len(self._members), where(self._options))
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            return 0 if self._stopping.is_set() else 1
        finally:
            clean = await self._end()
            for task in keepers:
                task.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if not clean:
                _log.warning("processes were killed that did not end in time")

    def _stop(self) -> None:
        if self._stopping.is_set():  # the second time: at once
            self._killed = True
            self._signal(signal.SIGKILL)
        self._stopping.set()

    async def _all_ready(
        self, started: list[asyncio.Event], keepers: list[asyncio.Task[None]]
    ) -> bool:
        async def all_started() -> None:
            for event in started:
                await event.wait()

        ready = asyncio.create_task(all_started())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([ready, stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
            return ready.done()
        finally:
            ready.cancel()
            stopping.cancel()

    async def _keep(self, member: Member, started: asyncio.Event) -> None:
        """Start a process, again when it dies; returns when it cannot start the first time.

        One that is killed while it starts may do better the next time, and the others serve.
        """
        failures = 0
        while True:
            since = SYSTEM_CLOCK.monotonic()
            try:
                status = await self._live(member, started)
                how = _how(status)
            except OSError as error:  # of the system, which may have what it takes later
                status, how = -signal.SIGKILL, f"it cannot be started: {error}"
            if self._stopping.is_set():
                return
            if not started.is_set() and (status >= 0 or member is self._members[0]):
                if status < 0:  # else it has said why
                    _log.error("process %d ended before it served (%s)", member.index, how)
                return
            failures = 0 if SYSTEM_CLOCK.monotonic() - since > _HEALTHY else failures + 1
            delay = 0.0 if failures == 0 else min(_LAST_DELAY, _FIRST_DELAY * 2 ** (failures - 1))
            member.restarts += 1
            _log.error(
                "process %d ended (%s); starting it again in %g s",
                member.index,
                how,
                delay,
            )
            await asyncio.sleep(delay)
            if self._stopping.is_set():
                return

    async def _live(self, member: Member, started: asyncio.Event) -> int:
        """One process from start to end; its status."""
        ours, theirs = socket.socketpair()
        options = self._options
        if options.spool is not None:
            options = replace(options, spool=options.spool / str(member.index))
        environment = {
            **os.environ,
            OPTIONS_VARIABLE: options.to_json(),
            LINK_VARIABLE: f"{member.index}:{theirs.fileno()}",
            PARENT_VARIABLE: str(os.getpid()),
        }
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "coalmine.serving._child"),
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the supervisor, which drains
                )
        except OSError:
            ours.close()
            raise
        self._processes[member.index] = process

        async def handle(op: str, args: dict[str, object]) -> object:
            try:
                answer = await self._hub.handle(member, op, args)
            except Exception as error:
                if op == "join":  # it would go on with what the others do not serve
                    _log.error("process %d cannot join the others: %s", member.index, error)
                    with suppress(ProcessLookupError):
                        process.kill()
                raise
            if op == "join":
                started.set()
            return answer

        channel = member.channel = await Channel.over(ours, handle)
        tasks = [
            asyncio.create_task(channel.run()),
            asyncio.create_task(
                watch(member, patience=self._options.hang_timeout, kill=process.kill)
            ),
        ]
        try:
            return await process.wait()
        finally:
            del self._processes[member.index]
            self._hub.left(member)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _signal(self, sig: int) -> None:
        for process in self._processes.values():
            process.send_signal(sig)

    async def _end(self) -> bool:
        """End what runs: with grace, then without. Whether grace was enough."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        waiting = [process.wait() for process in self._processes.values()]
        try:
            async with asyncio.timeout(self._options.drain + _MARGIN):
                await asyncio.gather(*waiting)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return False
        return True


def _how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
