"""Where evidence comes from: the performance monitor."""

from __future__ import annotations

from typing import Protocol

import httpx

from coalmine.rollout._errors import EvidenceUnavailable

__all__ = ["EvidenceSource", "MonitorEvidence"]


class EvidenceSource(Protocol):
    """Gives the performance monitor's answer, whole."""

    async def fetch(self, since: float) -> bytes:
        """Everything on blocks that start at `since` (epoch seconds) or later.

        `EvidenceUnavailable` if there is no answer.
        """
        ...


class MonitorEvidence:
    """`GET /v1/evidence` of a performance monitor. An async context manager."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
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

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
