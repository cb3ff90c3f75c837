"""KServe's logger events on their way into the log: joined, decoded, appended in few commits."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable

import pyarrow as pa

from coalmine.clock import Clock
from coalmine.records._cloudevents import Event
from coalmine.records._collector_metrics import CollectorMetrics
from coalmine.records._errors import LogError, RecordsError
from coalmine.records._event_rows import EventFate, EventRows, rows_of
from coalmine.records._event_window import Call, EventWindow, WindowLimits
from coalmine.records._log import RecordLog
from coalmine.records._signatures import Signatures
from coalmine.records._types import BatchId

__all__ = ["EventIntake"]

_log = logging.getLogger(__name__)

_TICK_S = 1.0
#: Others see the same call before or after: it would be recorded twice.
_IGNORED = ("transformer", "explainer")


class EventIntake:
    """Brings the two events of a call together, and their rows into the log.

    Halves wait in memory: what a killed collector had of them is lost, as is what KServe's logger,
    which sends an event once, had not sent. A joined call is durable before it is acknowledged.
    """

    def __init__(
        self,
        log: RecordLog,
        *,
        signatures: Signatures,
        clock: Clock,
        metrics: CollectorMetrics,
        limits: WindowLimits,
    ) -> None:
        self._log = log
        self._signatures = signatures
        self._clock = clock
        self._metrics = metrics
        self._window = EventWindow(limits)
        # A log knows rows again by their numbers, so the rows are numbered as an emitter does.
        self._emitter = f"kserve-{uuid.uuid4().hex[:12]}"
        self._last = 0
        self._numbering = threading.Lock()

    async def take(self, events: Iterable[Event]) -> dict[str, int]:
        """Take events in; what became of them, by fate. Raises LogError if calls are not stored."""
        fates: defaultdict[str, int] = defaultdict(int)
        now = self._clock.monotonic()
        calls: list[tuple[Call, Event]] = []
        for event in events:
            if event.component in _IGNORED:
                fates["ignored"] += 1
                continue
            found = self._window.add(event, now=now)
            if isinstance(found, Call):
                calls.append((found, event))
            else:
                fates["waiting" if found is None else "duplicate"] += 1
        failure: LogError | None = None
        for (call, last), fate in zip(
            calls, await self._store([call for call, _ in calls]), strict=True
        ):
            if isinstance(fate, LogError):
                failure = fate
                # The sender may try the last event again: the other waits for it.
                is_request = last.kind == "request"
                other = Call(None, call.response) if is_request else Call(call.request, None)
                self._window.put_back(other, now=now)
            else:
                fates[fate] += 1
        self._metrics.took_events(fates)
        await self._flush(self._window.due(now=now))
        if failure is not None:
            raise failure
        return dict(fates)

    async def run(self) -> None:
        """Let go, again and again, of what has waited too long."""
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                await self._flush(self._window.due(now=self._clock.monotonic()))
            except Exception:  # a fault of ours must not end this for all who come after
                _log.exception("orphans are lost")

    async def close(self) -> None:
        """Keep what still waits as orphans."""
        now = self._clock.monotonic()
        await self._flush(self._window.due(now=now, all_of_them=True))

    async def _flush(self, orphans: list[Call]) -> None:
        """Orphans into the log; while it cannot take them they wait on, within the window."""
        if not orphans:
            self._metrics.waiting_events(self._window.waiting)
            return
        now = self._clock.monotonic()
        counted: defaultdict[str, int] = defaultdict(int)
        for call, fate in zip(orphans, await self._store(orphans), strict=True):
            if not isinstance(fate, LogError):
                counted[fate] += 1
                counted["spilled"] += call.spilled
            elif call.spilled:  # no room to wait for the log
                counted["lost"] += 1
            else:
                self._window.put_back(call, now=now)
        self._metrics.took_events(counted)
        self._metrics.waiting_events(self._window.waiting)

    async def _store(self, calls: list[Call]) -> list[EventFate | LogError]:
        return await asyncio.to_thread(self._append, calls) if calls else []

    def _append(self, calls: list[Call]) -> list[EventFate | LogError]:
        """What became of each call, in order; the batches of one model go together."""
        decoded = [rows_of(call, self._signatures) for call in calls]
        fates: list[EventFate | LogError] = [rows.fate for rows in decoded]
        groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, rows in enumerate(decoded):
            groups[_group(rows)].append(place)
        for places in groups.values():
            table = pa.Table.from_batches([decoded[place].batch for place in places])
            (batch,) = table.combine_chunks().to_batches()
            with self._numbering:
                last = self._last + batch.num_rows
                try:
                    self._log.append(batch, batch_id=BatchId(self._emitter, self._last + 1, last))
                except LogError as error:
                    _log.warning("%d logged calls are not stored: %s", len(places), error)
                    for place in places:
                        fates[place] = error
                except RecordsError as error:  # a name, say, that no log takes
                    _log.error("%d logged calls are lost: %s", len(places), error)
                    for place in places:
                        fates[place] = "lost"
                else:
                    self._last = last
        return fates


def _group(rows: EventRows) -> tuple[str, ...]:
    """What the rows of one batch have in common."""
    batch = rows.batch
    names = ("model_name", "model_version", "arm")
    return *(batch.column(name)[0].as_py() for name in names), batch.schema.to_string()
