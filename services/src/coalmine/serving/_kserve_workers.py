"""KServe's workers, given the time they need to start.

KServe 0.21 asks every worker for a sign of life twice a second, and kills one that gives none
within 5 s. A worker that is still importing KServe itself, which is 4 s of CPU, gives none: with
two of them on one core, or on a busy node, workers are killed and started again for ever.
"""

from __future__ import annotations

from typing import Any

from kserve.protocol.rest.multiprocess.server import RESTServerProcess

from coalmine.clock import SYSTEM_CLOCK

__all__ = ["let_workers_start"]

_START_SECONDS = 120.0
_theirs = RESTServerProcess.is_alive


def let_workers_start() -> None:
    """Have KServe's server wait for the first answer of a worker; once is enough for a process."""
    RESTServerProcess.is_alive = _is_alive


def _is_alive(self: Any, timeout: float = 5) -> bool:
    known = self.__dict__
    if not self._process.is_alive() or known.get("answered"):
        alive: bool = _theirs(self, timeout)
        return alive
    if "asked" not in known:
        known["asked"] = SYSTEM_CLOCK.monotonic()
        self._parent_conn.send(b"ping")
    if self._parent_conn.poll():  # without waiting: the parent answers gRPC meanwhile
        self._parent_conn.recv()
        known["answered"] = True
    waited = SYSTEM_CLOCK.monotonic() - known["asked"]
    return "answered" in known or waited < _START_SECONDS
