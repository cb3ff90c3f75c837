"""Evidence from Prometheus: what our servers counted, over as many of them as there are.

Raw samples are asked for (a range selector), and compared here: `_counters` says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx

from coalmine.clock import Clock
from coalmine.rollout._counters import BUCKETS, REQUESTS, Sampled, measured_blocks
from coalmine.rollout._errors import EvidenceUnavailable
from coalmine.rollout._evidence import Query
from coalmine.rollout._measured import Measured

__all__ = ["PrometheusEvidence"]

#: A scrape that is under way at this moment is waited for, in seconds.
_SETTLE = 1.0


class PrometheusEvidence:
    """`GET /api/v1/query` of a Prometheus that scrapes the arms' servers."""

    def __init__(
        self, url: str, *, model_name: str, block_s: float, clock: Clock, timeout: float = 10.0
    ) -> None:
        self.block_s = block_s
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._model = model_name
        self._clock = clock
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False)

    def queries(self, seconds: int) -> tuple[Query, ...]:
        """The PromQL, word for word; `seconds` is how far back it looks."""
        selector = f'{{model_name="{self._model}"}}[{seconds}s]'
        return (
            Query(name="requests by status", text=f"{REQUESTS}{selector}"),
            Query(name="requests by latency", text=f"{BUCKETS}{selector}"),
        )

    async def fetch(self, since: float) -> bytes:
        """The questions, their time, and Prometheus' answers as they came."""
        at = self._clock.time() - _SETTLE
        # The scrape before the first block is where its counters began.
        seconds = math.ceil(max(at - since, 0.0) + 2 * self.block_s)
        asked = self.queries(seconds)
        answers = [await self._ask(query.text, at) for query in asked]
        said = {"at": at, "queries": [q.model_dump() for q in asked], "answers": answers}
        return json.dumps(said).encode()

    async def _ask(self, query: str, at: float) -> Any:
        try:
            response = await self._client.get(self._url, params={"query": query, "time": at})
            content = response.json()
        except (httpx.HTTPError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise EvidenceUnavailable(f"Prometheus: {reason}") from error
        if not isinstance(content, dict) or content.get("status") != "success":
            why = content.get("error") if isinstance(content, dict) else content
            raise EvidenceUnavailable(f"Prometheus: {response.status_code}: {why}: {query}")
        return content

    def read(self, content: bytes) -> Measured:
        """Blocks of increments; a server that is not there has none."""
        try:
            said = json.loads(content)
            series = [each for answer in said["answers"] for each in _series(answer)]
            queries = tuple(Query.model_validate(each) for each in said["queries"])
            until = math.floor(said["at"] / self.block_s) * self.block_s
            edges, blocks = measured_blocks(series, block_s=self.block_s, until=until)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise EvidenceUnavailable(f"Prometheus: not as its API is: {error!r}") from error
        return Measured(
            evaluated_to=until,
            latency_edges_us=edges,
            blocks=blocks,
            source="Prometheus",
            queries=queries,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _series(answer: dict[str, Any]) -> Iterator[Sampled]:
    data = answer["data"]
    if data["resultType"] != "matrix":
        raise ValueError(f"a {data['resultType']}, not a matrix")
    for each in data["result"]:
        values = tuple((float(time), float(value)) for time, value in each["values"])
        yield Sampled(each["metric"]["__name__"], each["metric"], values)
