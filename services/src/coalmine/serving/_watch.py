"""Looking for new versions and new models, and loading them without being asked."""

from __future__ import annotations

import asyncio
import logging

from coalmine.serving._errors import ServingError
from coalmine.serving._management import Control
from coalmine.serving._repository import Repository

__all__ = ["watch"]

_log = logging.getLogger("coalmine.serving")


async def watch(repository: Repository, control: Control, *, every: float) -> None:
    """Every so many seconds load what has changed; never returns.

    A source that cannot be loaded is tried again when it changes once more. A model that was
    unloaded stays so until its files change, or somebody loads it.
    """
    # The first look loads everything once more, which changes nothing where nothing has changed: a
    # source may have done so since the start.
    seen: dict[str, object] = {}
    while True:
        await asyncio.sleep(every)
        try:
            now = await asyncio.to_thread(repository.look)
        except Exception as error:  # a source that is gone for a while
            _log.warning("cannot look for new models: %s", error)
            continue
        changed = [name for name, content in now.items() if seen.get(name) != content]
        seen = now
        for name in changed:
            try:
                await control.load(name)
            except ServingError:
                pass  # logged and kept as the model's reason already
            except Exception:
                _log.exception("cannot load %s", name)
