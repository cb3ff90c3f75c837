"""Evidence straight from the arms' servers: their `/metrics`, read at every moment of the rollout.

For a machine without Prometheus. What was read is in memory: a controller that was restarted counts
anew, and has less evidence than there was.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress

import httpx
from prometheus_client.parser import text_string_to_metric_families

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.rollout._counters import BUCKETS, REQUESTS, Sampled, measured_blocks
from coalmine.rollout._errors import EvidenceUnavailable
from coalmine.rollout._evidence import Query
from coalmine.rollout._measured import Measured

__all__ = ["ScrapeEvidence"]

#: Scrapes in a block: an arm's counts end at most this part of a block away from the other's.
_PER_BLOCK = 4
_TIMEOUT = 2.0
#: Of each series, a day at a scrape a second; older ones are forgotten.
_KEPT = 86_400

_Key = tuple[str, tuple[tuple[str, str], ...]]


class ScrapeEvidence:
    """Scrapes while it is running (`run`), and answers from what it has."""

    def __init__(
        self, urls: Mapping[Arm, str], *, model_name: str, block_s: float, clock: Clock
    ) -> None:
        self.block_s = block_s
        self._urls = {arm: f"{url.rstrip('/')}/metrics" for arm, url in urls.items()}
        self._model = model_name
        self._clock = clock
        self._samples: dict[_Key, deque[tuple[float, float]]] = defaultdict(
            lambda: deque(maxlen=_KEPT)
        )
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False)
        self._task: asyncio.Task[None] | None = None

    async def scrape(self) -> None:
        """Read each arm's server once; one that does not answer has no sample."""
        await asyncio.gather(*(self._read(arm, url) for arm, url in self._urls.items()))

    async def fetch(self, since: float) -> bytes:
        """The samples of the time that is asked for; the first call begins to scrape."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_scraping(), name="scrape the arms")
        now, first = self._clock.time(), since - 2 * self.block_s
        series = [
            {"name": name, "labels": dict(labels), "values": kept}
            for (name, labels), values in self._samples.items()
            if (kept := [each for each in values if each[0] >= first])
        ]
        return json.dumps({"at": now, "series": series}).encode()

    def read(self, content: bytes) -> Measured:
        """Blocks of increments; a server that did not answer has none."""
        try:
            said = json.loads(content)
            series = [
                Sampled(each["name"], each["labels"], tuple((t, v) for t, v in each["values"]))
                for each in said["series"]
            ]
            until = math.floor(said["at"] / self.block_s) * self.block_s
            edges, blocks = measured_blocks(series, block_s=self.block_s, until=until)
        except (ValueError, KeyError, TypeError) as error:
            raise EvidenceUnavailable(f"the scrapes: {error!r}") from error
        asked = (Query(name=arm.value, text=f"GET {url}") for arm, url in self._urls.items())
        return Measured(
            evaluated_to=until,
            latency_edges_us=edges,
            blocks=blocks,
            source="scrapes of the arms",
            queries=tuple(asked),
        )

    async def aclose(self) -> None:
        """Stop scraping, and close the connections."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._client.aclose()

    async def _keep_scraping(self) -> None:
        while True:
            await self.scrape()
            await asyncio.sleep(self.block_s / _PER_BLOCK)

    async def _read(self, arm: Arm, url: str) -> None:
        try:
            response = await self._client.get(url)
            response.raise_for_status()
            time = self._clock.time()
            found = [
                (sample.name, sample.labels, sample.value)
                for family in text_string_to_metric_families(response.text)
                for sample in family.samples
                if sample.name in (REQUESTS, BUCKETS)
                and sample.labels.get("model_name") == self._model
            ]
        except (httpx.HTTPError, ValueError):
            return
        for name, labels, value in found:
            # The server's address tells two that say the same of themselves apart.
            labels = {**labels, "instance": url}
            self._samples[(name, tuple(sorted(labels.items())))].append((time, value))
