"""Records of what was shed: one for many, since shedding has to stay cheap.

An arm that sheds is a worse arm, so what it turns away is evidence like what it answers badly. But
a flood of requests must not become a flood of records: those that are shed within a tenth of a
second for the same reason are one record, which says how many they were (`batch_rows`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from coalmine.clock import Clock
from coalmine.records import CALLER_NONE, InferenceRecord, RecordEmitter
from coalmine.records import Protocol as ProtocolName
from coalmine.serving._errors import OverloadedError
from coalmine.serving._status import http_status, public_message

__all__ = ["Sheds"]

#: Seconds that a record waits for more like it.
_PATIENCE = 0.1
#: Records a tenth of a second at most, if callers are told apart; the rest are of no known caller.
_MOST = 32

_Kind = tuple[RecordEmitter, int, ProtocolName, int]


@dataclass(slots=True)
class _Shed:
    """The first of them, and how many they are."""

    request_id: str
    time: float
    error: str
    count: int = 1


class Sheds:
    """Collects what one event loop sheds. `flush` writes what has not been written yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[_Kind, _Shed] = {}

    def add(
        self,
        request_id: str,
        protocol: ProtocolName,
        error: OverloadedError,
        *,
        arrived: float,
        emitter: RecordEmitter,
        caller: int,
    ) -> None:
        """Record a request that was turned away; `arrived` is on the monotonic clock."""
        waiting = self._waiting
        if len(waiting) >= _MOST:
            caller = min(caller, CALLER_NONE)
        kind = (emitter, http_status(error), protocol, caller)
        if (shed := waiting.get(kind)) is not None:
            shed.count += 1
            return
        if not waiting:
            asyncio.get_running_loop().call_later(_PATIENCE, self.flush)
        time = self._clock.time() - (self._clock.monotonic() - arrived)
        waiting[kind] = _Shed(request_id, time, public_message(error))

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, {}
        for (emitter, status, protocol, caller), shed in waiting.items():
            emitter.emit(
                InferenceRecord(
                    shed.request_id,
                    shed.time,
                    protocol,
                    0,
                    {},
                    None,
                    status,
                    batch_rows=shed.count,
                    error=shed.error,
                    caller=caller,
                )
            )
