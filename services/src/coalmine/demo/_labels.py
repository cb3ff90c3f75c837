"""Labels from the workshop: late, by request id, and delivered until the collector says so."""

from __future__ import annotations

import asyncio

import httpx

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.demo._ledger import DueLabel, TruthLedger

__all__ = ["LabelCourier"]

_BATCH = 2000
_PERIOD_S = 0.25
_ACCEPTED = 200
#: The collector will not take these labels however often they are offered.
_FINAL = (400, 413, 422)


class LabelCourier:
    """Carries due labels from the ledger to `POST /v1/labels` of the collector.

    A label leaves the ledger's debt only with a 200: a collector that dies or is restarted between
    is offered the same batch again, and answers `repeated` for what it already had.
    """

    def __init__(self, url: str, *, ledger: TruthLedger, clock: Clock = SYSTEM_CLOCK) -> None:
        self._url = f"{url.rstrip('/')}/v1/labels"
        self._ledger = ledger
        self._clock = clock
        self._everything = False
        self.refused: str | None = None
        """Why the collector refused a batch for good; None: it has not."""

    def hurry(self) -> None:
        """Deliver all that is owed now, due or not, and let `run` return after it."""
        self._everything = True

    async def run(self) -> None:
        """Deliver until `hurry` was said and nothing is owed."""
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
            while True:
                last = self._everything
                now = float("inf") if last else self._clock.monotonic()
                batch = self._ledger.owed(now=now, limit=_BATCH)
                if batch:
                    await self._deliver(http, batch)
                elif last:
                    return
                else:
                    await asyncio.sleep(_PERIOD_S)

    async def _deliver(self, http: httpx.AsyncClient, batch: list[DueLabel]) -> None:
        time = self._clock.time()
        labels = [
            {"request_id": due.request_id, "row": due.row, "label": due.label, "time": time}
            for due in batch
        ]
        delay = 0.1
        while True:
            try:
                response = await http.post(self._url, json={"labels": labels})
            except httpx.TransportError:
                pass
            else:
                if response.status_code == _ACCEPTED:
                    self._ledger.delivered(len(batch))
                    return
                if response.status_code in _FINAL:
                    self.refused = f"{response.status_code}: {response.text[:200]}"
                    return
            await asyncio.sleep(delay)
            delay = min(2 * delay, 2.0)
