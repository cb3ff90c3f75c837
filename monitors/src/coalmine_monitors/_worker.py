"""The thread that does a monitor's work, so that the event loop only answers questions."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

__all__ = ["Monitor", "Worker"]

_log = logging.getLogger(__name__)

#: Seconds between two looks at a log with nothing new.
POLL = 0.3
_FIRST_RETRY = 0.2
_LAST_RETRY = 5.0


class Monitor(Protocol):
    """What a worker drives; called from its thread only."""

    def load(self) -> None:
        """Take up the persisted state, dropping what is in memory."""

    def step(self) -> bool:
        """Do some work and commit it; whether there is more to do at once."""

    def failed(self) -> None:
        """Take note that a step raised."""


class Worker:
    """Calls `step` until stopped. An error is logged, and the step done again from disk."""

    def __init__(self, monitor: Monitor, *, name: str) -> None:
        self._monitor = monitor
        self._stopping = threading.Event()
        # A daemon: a step that hangs on a dead disk must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Let the present step end, and the thread with it."""
        self._stopping.set()
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        retry, loaded = _FIRST_RETRY, False
        while not self._stopping.is_set():
            try:
                if not loaded:
                    self._monitor.load()
                    loaded = True
                more = self._monitor.step()
            except Exception:
                # Whatever it is (a locked or full disk, a defect), a monitor that stops watching is
                # the worse failure; memory may be ahead of the disk now, so it is loaded again.
                _log.exception("%s: a step failed; again in %.1f s", self._thread.name, retry)
                self._note_failure()
                loaded = False
                self._stopping.wait(retry)
                retry = min(2 * retry, _LAST_RETRY)
                continue
            retry = _FIRST_RETRY
            if not more:
                self._stopping.wait(POLL)

    def _note_failure(self) -> None:
        try:
            self._monitor.failed()
        except Exception:  # what cannot be told must not end the thread
            _log.exception("%s: the failure is not shown", self._thread.name)
