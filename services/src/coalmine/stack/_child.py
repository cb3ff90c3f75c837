"""One supervised process: started, restarted with back-off when it dies, stopped with its group."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coalmine.clock import Clock
from coalmine.stack._state import Part

__all__ = ["Child", "ChildSpec"]

_log = logging.getLogger(__name__)

_LAUNCH = Path(__file__).with_name("_launch.py")
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
#: A child that ran this long (s) was healthy: the next restart is quick again.
_HEALTHY_AFTER = 10.0
_MAX_LOG = 32 * 1024**2


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run, and where it can be reached."""

    name: str
    command: tuple[str, ...]
    url: str
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class Child:
    """Runs a `ChildSpec` until told to stop; `changed` is called after every start and end."""

    def __init__(self, spec: ChildSpec, *, clock: Clock, changed: Callable[[], None]) -> None:
        self.spec = spec
        self._clock = clock
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._starts = 0
        self._stopping = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {spec.name}")

    @property
    def part(self) -> Part:
        """How the part stands now."""
        pid = None if self._process is None else self._process.pid
        restarts = max(self._starts - 1, 0)
        return Part(self.spec.name, pid, self.spec.url, restarts, self.spec.note)

    async def stop(self, *, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; nothing of its group is left."""
        self._stopping.set()
        if self._process is not None:
            # Not to its group: how its own children end is for it to say.
            self._process.terminate()
        _, late = await asyncio.wait({self._keeper}, timeout=grace)
        if late and self._process is not None:
            _log.warning("%s did not stop in %.1f s and is killed", self.spec.name, grace)
            _signal_group(self._process.pid, signal.SIGKILL)
        await self._keeper

    def kill(self, pid: int) -> None:
        """SIGKILL its process and all of its group, if it still is this one; `_keep` goes on."""
        if self._process is not None and self._process.pid == pid:
            _signal_group(pid, signal.SIGKILL)

    async def _keep(self) -> None:
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            started = self._clock.monotonic()
            try:
                status = await self._run()
            except OSError as error:
                _log.error("%s cannot be started: %s", self.spec.name, error)
                status = -1
            if self._stopping.is_set():
                return
            if self._clock.monotonic() - started > _HEALTHY_AFTER:
                wait = _FIRST_WAIT
            _log.warning("%s ended (%s), restart in %.1f s", self.spec.name, status, wait)
            try:
                await asyncio.wait_for(self._stopping.wait(), wait)
            except TimeoutError:
                wait = min(2 * wait, _LONGEST_WAIT)

    async def _run(self) -> int:
        _rotate(self.spec.log)
        with self.spec.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *self.spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.spec.env},
                # Ctrl-C in the terminal is for the supervisor, which stops the parts in order; and
                # what a part leaves behind can be found by its group.
                start_new_session=True,
            )
        self._process = process
        self._starts += 1
        self._changed()
        try:
            if self._stopping.is_set():  # told while it was being started
                process.terminate()
            return await process.wait()
        finally:
            # Its own children, if any, would keep its port and its files.
            _signal_group(process.pid, signal.SIGKILL)
            self._process = None
            self._changed()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _MAX_LOG:
        log.replace(log.with_name(f"{log.name}.1"))
