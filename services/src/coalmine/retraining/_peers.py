"""The services that the retrainer asks: the data-quality monitor and the rollout controller.

PeerError         a peer did not answer, or not in a way that can be read: ask again later
  OfferRefused    the rollout controller refuses a version now (409), and says why
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import httpx

_OVER = frozenset({"promoted", "rolled_back", "aborted"})
_TIMEOUT = httpx.Timeout(10.0, connect=2.0)


class PeerError(Exception):
    """A peer did not answer, or not in a way that can be read: ask again later."""


class OfferRefused(PeerError):
    """The rollout controller refuses a version now."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the data-quality monitor says."""

    incident: str | None
    """Summary of an open incident of the model."""

    evaluated_to: float
    """Record time up to which records are judged, seconds since the epoch; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout, as its list shows it."""

    id: str
    version: str
    over: bool


class Peers:
    """HTTP clients of both; used from one event loop."""

    def __init__(self, *, quality_url: str, rollout_url: str, model_name: str) -> None:
        self._quality = f"{quality_url.rstrip('/')}/v1/incidents"
        self._rollouts = f"{rollout_url.rstrip('/')}/v1/rollouts"
        self._model_name = model_name
        self._client = httpx.AsyncClient(timeout=_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def quality(self) -> Quality:
        """Ask the data-quality monitor."""
        body = await self._get(self._quality, params={"open": "true"})
        try:
            summaries = [
                str(incident.get("summary", "an open incident"))
                for incident in body["incidents"]
                if incident.get("model_name", self._model_name) == self._model_name
            ]
            evaluated = float(body.get("evaluated_to") or 0.0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PeerError(f"{self._quality}: an answer that cannot be read") from error
        return Quality(incident=summaries[0] if summaries else None, evaluated_to=evaluated)

    async def rollouts(self) -> list[Rollout]:
        """All rollouts that the controller knows."""
        body = await self._get(self._rollouts)
        try:
            return [
                Rollout(id=str(r["id"]), version=str(r["version"]), over=r["state"] in _OVER)
                for r in (body["rollouts"] if isinstance(body, dict) else body)
            ]
        except (KeyError, TypeError) as error:
            raise PeerError(f"{self._rollouts}: an answer that cannot be read") from error

    async def offer(self, version: str, *, reason: str, shadow: bool) -> str:
        """Start a rollout; its id. `OfferRefused` with the controller's words if it will not."""
        order = {"version": version, "shadow": shadow, "reason": reason, "actor": "retrainer"}
        try:
            answer = await self._client.post(self._rollouts, json=order)
        except httpx.HTTPError as error:
            raise PeerError(f"{self._rollouts}: {error}") from error
        if answer.status_code == httpx.codes.CONFLICT:
            raise OfferRefused(_error_of(answer))
        if answer.is_error:
            raise PeerError(f"{self._rollouts}: {answer.status_code} {_error_of(answer)}")
        try:
            return str(answer.json()["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(f"{self._rollouts}: an answer that cannot be read") from error

    async def _get(self, url: str, *, params: dict[str, str] | None = None) -> Any:
        try:
            answer = await self._client.get(url, params=params)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise PeerError(f"{url}: {error}") from error


def _error_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
