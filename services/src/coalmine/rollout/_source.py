"""Where evidence comes from: one protocol, and the performance monitor."""

from __future__ import annotations

from typing import Protocol

import httpx

from coalmine.rollout._errors import EvidenceUnavailable
from coalmine.rollout._measured import Measured, parse_measured

__all__ = ["EvidenceSource", "MonitorEvidence"]


class EvidenceSource(Protocol):
    """Who counted something. An answer is kept as it came: its digest goes to the ledger."""

    @property
    def block_s(self) -> float:
        """Length of the blocks that it counts by, in seconds."""
        ...

    async def fetch(self, since: float) -> bytes:
        """Everything on blocks that start at `since` (epoch seconds) or later.

        `EvidenceUnavailable` if there is no answer.
        """
        ...

    def read(self, content: bytes) -> Measured:
        """What an answer says: from its content alone. Blocks.

        `EvidenceUnavailable` if it is not as agreed.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


class MonitorEvidence:
    """`GET /v1/evidence` of a performance monitor."""

    def __init__(self, url: str, *, block_s: float = 1.0, timeout: float = 5.0) -> None:
        self.block_s = block_s
        self._url = f"{url.rstrip('/')}/v1/evidence"
        # The environment's proxies are not for a service next door.
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False)

    async def fetch(self, since: float) -> bytes:
        """The answer's body."""
        try:
            response = await self._client.get(self._url, params={"since": since})
            response.raise_for_status()
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise EvidenceUnavailable(f"the performance monitor: {reason}") from error
        return response.content

    def read(self, content: bytes) -> Measured:
        """The monitor speaks our form."""
        return parse_measured(content)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
