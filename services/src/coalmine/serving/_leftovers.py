"""Records that processes left behind which do not run any more: fewer than before, say."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from coalmine.records import RecordsError, drain_spool, spool_stats
from coalmine.serving._options import ServeOptions

__all__ = ["ship_leftovers"]

_log = logging.getLogger("coalmine.serving")
_TIMEOUT = 30.0
_PAUSE = 10.0


def ship_leftovers(root: Path, options: ServeOptions) -> None:
    """Ship what is left below `root`, the `--spool` of all processes, in a thread of its own.

    The thread ends when nothing is left; it may be killed at any time. For one process of a server.
    """
    left = [spool for spool in _spools(root, options.processes) if spool_stats(spool).pending_rows]
    sink = options.records
    if left and sink is not None:
        arguments = (left, sink)
        threading.Thread(target=_ship, args=arguments, name="leftovers", daemon=True).start()


def _spools(root: Path, processes: int) -> Iterator[Path]:
    """Spools that no process of this server has: of processes 0 to N - 1 if there are several."""
    if not root.is_dir():
        return
    if processes > 1:
        yield root
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        number = int(folder.name) if folder.name.isdecimal() else None
        # Alone, a process has the root and what is named as a model in it.
        mine = number is None if processes == 1 else number is not None and number < processes
        if not mine:
            yield folder
            yield from sorted(path for path in folder.iterdir() if path.is_dir())


def _ship(left: list[Path], sink: str) -> None:
    pause = threading.Event()
    while left:
        for spool in list(left):
            try:
                stats = drain_spool(spool, sink, timeout=_TIMEOUT)
            except RecordsError:  # it is somebody's after all
                left.remove(spool)
                continue
            if not stats.pending_rows:
                _log.info("shipped the records that %s still held", spool)
                left.remove(spool)
        if left:
            pause.wait(_PAUSE)
