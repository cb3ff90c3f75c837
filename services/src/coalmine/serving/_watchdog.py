"""A process of a server that answers nobody any more is killed, so that another takes its place.

Connections that the kernel gives to such a process wait in vain, and it would stay so for ever: a
process that is stopped, or whose event loop is blocked, does not end by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from coalmine.serving._errors import ServingError
from coalmine.serving._hub import Member

__all__ = ["watch"]

_log = logging.getLogger("coalmine.serving")
_LOOKS = 10


async def watch(member: Member, *, patience: float, kill: Callable[[], None]) -> None:
    """Ask a process again and again whether it is there; `kill` it after `patience` seconds.

    Returns when it is killed, or gone. One that has not joined yet may load for as long as it must.
    """
    pause = patience / _LOOKS
    while True:
        await asyncio.sleep(pause)
        if not member.joined or member.channel is None:
            continue
        asked = asyncio.ensure_future(member.channel.request("ping"))
        try:
            # In slices, so that if it is this process that was stopped, for however long, it does
            # not find all the others late when it goes on, before it has read what they said.
            for _ in range(_LOOKS):
                done, _ = await asyncio.wait({asked}, timeout=pause)
                if done:
                    asked.result()
                    break
            else:
                _log.error(
                    "process %d has not answered for %g s and is killed", member.index, patience
                )
                kill()
                return
        except ServingError:
            return
        finally:
            asked.cancel()
