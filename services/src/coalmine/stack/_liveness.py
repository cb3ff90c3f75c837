"""A part of the stack that answers nobody any more is killed, so that it is started again.

A process that hangs does not end by itself, and while the control process hangs nobody watches a
candidate, collects records or takes commands.
"""

from __future__ import annotations

import asyncio
import logging

import httpx

from coalmine.stack._supervisor import Supervisor

__all__ = ["keep_answering"]

_log = logging.getLogger(__name__)

#: Looks in a row without an answer after which a part is killed: three minutes of silence. A
#: machine may be busy for longer than one look lasts, and a rollout is given up after one anyway.
_LOOKS = 12
#: The same for one that has not answered yet since its start: it may have a lot to read.
_FIRST_LOOKS = 60
#: Seconds between two looks, and that a look waits.
_PAUSE, _TIMEOUT = 5.0, 10.0


async def keep_answering(
    supervisor: Supervisor,
    name: str,
    address: str,
    *,
    looks: int = _LOOKS,
    pause: float = _PAUSE,
    timeout: float = _TIMEOUT,
) -> None:
    """Ask a part again and again, until cancelled; kill it when `looks` in a row were in vain.

    Looks are counted, not seconds: if it is this process that was stopped, for however long, it
    finds the part late only once when it goes on.
    """
    watched: int | None = None
    silent, answered = 0, False
    async with httpx.AsyncClient(timeout=timeout, trust_env=False, verify=False) as client:
        while True:
            await asyncio.sleep(pause)
            pid = supervisor.pid_of(name)
            if pid != watched:
                watched, silent, answered = pid, 0, False
            if pid is None:
                continue
            if await _answers(client, address):
                silent, answered = 0, True
                continue
            silent += 1
            if silent >= (looks if answered else max(looks, _FIRST_LOOKS)):
                _log.error("%s has not answered %d times in a row and is killed", name, silent)
                supervisor.kill(name, pid)


async def _answers(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(address)).is_success
    except httpx.HTTPError:
        return False
