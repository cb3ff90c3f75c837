"""The services that the retrainer asks: the data-quality monitor and the rollout controller.

PeerError         a peer did not answer, or not in a way that can be read: ask again later
  OfferRefused    the rollout controller refuses a version now (409), and says why
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

_OVER = frozenset({"promoted", "rolled_back", "aborted"})
_TOLD = 5
_TIMEOUT = httpx.Timeout(10.0, connect=2.0)


class PeerError(Exception):
    """A peer did not answer, or not in a way that can be read: ask again later."""


class OfferRefused(PeerError):
    """The rollout controller refuses a version now."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the data-quality monitor says."""

    incident: str | None
    """An open incident that touches the model: its summary, its id and its features."""

    evaluated_to: float
    """Record time up to which records are judged, seconds since the epoch; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout, as its list shows it."""

    id: str
    version: str
    state: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in _OVER


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

    async def quality(self, features: Collection[str] | None) -> Quality:
        """Ask the data-quality monitor about what touches `features` (None: about all)."""
        body = await self._get(self._quality, params={"open": "true"})
        try:
            found = [
                _told(incident)
                for incident in body["incidents"]
                if incident.get("model_name", self._model_name) == self._model_name
                and _touches(incident, features)
            ]
            evaluated = float(body.get("evaluated_to") or 0.0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PeerError(f"{self._quality}: an answer that cannot be read") from error
        return Quality(incident=found[0] if found else None, evaluated_to=evaluated)

    async def rollouts(self) -> list[Rollout]:
        """All rollouts that the controller knows."""
        body = await self._get(self._rollouts)
        try:
            return [
                Rollout(id=str(r["id"]), version=str(r["version"]), state=str(r["state"]))
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


def _touches(incident: Mapping[str, Any], features: Collection[str] | None) -> bool:
    """Whether an incident is about any of these features; one that names none is about all."""
    named = _names(incident)
    return not named or features is None or any(name in features for name in named)


def _names(incident: Mapping[str, Any]) -> list[str]:
    return [str(feature["name"]) for feature in incident.get("features") or ()]


def _told(incident: Mapping[str, Any]) -> str:
    """An incident, with the labels by which a person finds it."""
    labels = {"incident": incident.get("id"), "features": ", ".join(_names(incident)[:_TOLD])}
    text = "; ".join(f"{name} {value}" for name, value in labels.items() if value)
    summary = str(incident.get("summary", "an open incident"))
    return f"{summary} ({text})" if text else summary


def _error_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
