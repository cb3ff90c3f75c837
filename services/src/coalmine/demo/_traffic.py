"""The fleet's requests: paced, bounded, and resent when nobody answered.

Pace is an open loop: requests start on a schedule whether or not earlier ones have been answered,
as vehicles do. What keeps it from piling up is the bound on requests in flight: when it is reached,
the schedule itself slips, so a system that falls behind sees a lower rate, never a longer queue.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.demo._ledger import Answered, Phase, TruthLedger
from coalmine.demo._uploads import Upload, UploadSource
from coalmine.demo.client import Answer, Client, NoAnswer, RequestFailed, Sent

__all__ = ["Pace", "Traffic", "TrafficStats"]

_REMEMBERED_FAILURES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the fleet sends, and how time is compressed."""

    requests_per_s: float = 45.0
    in_flight: int = 32
    seconds_per_day: float = 2.0
    """A label that the workshop finds after d days arrives after d times this."""

    resend_for_s: float = 15.0
    """How long a request is offered again to a gateway that gives no answer."""


@dataclass(slots=True)
class TrafficStats:
    """Counts of finished requests; `failures` remembers the first few in words."""

    requests: int = 0
    failed: int = 0
    resent: int = 0
    in_flight: int = 0
    by_protocol: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Traffic:
    """Sends uploads through the clients in turn until told to stop."""

    def __init__(
        self,
        *,
        source: UploadSource,
        clients: Sequence[Client],
        ledger: TruthLedger,
        pace: Pace,
        clock: Clock = SYSTEM_CLOCK,
        seed: int = 0,
    ) -> None:
        self._source = source
        self._clients = tuple(clients)
        self._ledger = ledger
        self._pace = pace
        self._clock = clock
        self._ids = random.Random(f"request ids {seed}")
        self._stopping = asyncio.Event()
        self.phase = Phase.BEFORE
        self.stats = TrafficStats()

    def stop(self) -> None:
        """Start no more requests; `run` returns when those in flight are finished."""
        self._stopping.set()

    async def run(self) -> None:
        """Send until `stop`, then wait for the requests in flight."""
        interval = 1.0 / self._pace.requests_per_s
        slots = asyncio.Semaphore(self._pace.in_flight)
        next_at = self._clock.monotonic()
        async with asyncio.TaskGroup() as group:
            turn = 0
            while not self._stopping.is_set():
                upload = await self._source.next()
                await slots.acquire()
                await self._pause(next_at - self._clock.monotonic())
                next_at = max(next_at + interval, self._clock.monotonic() - interval)
                client = self._clients[turn % len(self._clients)]
                turn += 1
                group.create_task(self._send(upload, client, slots))
        await self._source.aclose()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _send(self, upload: Upload, client: Client, slots: asyncio.Semaphore) -> None:
        request_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        sent = Sent(request_id, upload.vehicle, upload.windows)
        # The story's phase is that of the question: an answer may come after the world has changed.
        phase = self.phase
        self.stats.in_flight += 1
        try:
            answer = await self._ask(client, sent)
        except (NoAnswer, RequestFailed) as error:
            self.stats.failed += 1
            if len(self.stats.failures) < _REMEMBERED_FAILURES:
                self.stats.failures.append(f"{client.protocol} {request_id}: {error}")
        else:
            self._remember(sent, upload, phase=phase, protocol=client.protocol, answer=answer)
        finally:
            self.stats.in_flight -= 1
            self.stats.requests += 1
            self.stats.by_protocol[client.protocol] += 1
            slots.release()

    async def _ask(self, client: Client, sent: Sent) -> Answer:
        """Ask, and ask again under the same id while nobody answers."""
        give_up_at = self._clock.monotonic() + self._pace.resend_for_s
        delay = 0.1
        while True:
            try:
                return await client.ask(sent)
            except NoAnswer:
                if self._clock.monotonic() + delay > give_up_at:
                    raise
            self.stats.resent += 1
            await asyncio.sleep(delay)
            delay = min(2 * delay, 1.0)

    def _remember(
        self, sent: Sent, upload: Upload, *, phase: Phase, protocol: str, answer: Answer
    ) -> None:
        now = self._clock.monotonic()
        self._ledger.answered(
            Answered(
                request_id=sent.request_id,
                time=self._clock.time(),
                phase=phase,
                protocol=protocol,
                arm=answer.arm,
                version=answer.version,
                truth=upload.truth,
                predicted=answer.labels,
            ),
            label_due=[now + days * self._pace.seconds_per_day for days in upload.delay_days],
        )
