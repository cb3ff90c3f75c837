"""Looks at the stack from outside, over its HTTP APIs, and turns what changes into a timeline.

A part that is away for a while is asked again: what was seen stays seen, and what was missed is in
the part's own ledger when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import httpx

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.demo import _views as views
from coalmine.demo._facts import RolloutFact, RunFact, TriggerFact
from coalmine.demo._history import Event, History, ScoreSample, WeightSample
from coalmine.gateway import GatewayError, RoutePlan
from coalmine.incidents import Incident

__all__ = ["GatewayReader", "Watcher"]

MONITORS = ("drift", "performance", "quality")
_TERMINAL = ("promoted", "rolled_back", "aborted")
_ALL_WINDOWS = 5000


class GatewayReader(Protocol):
    """`coalmine.gateway.EnvoyGateway` reads Envoy's admin port."""

    async def applied(self) -> RoutePlan | None:
        """The plan in force."""
        ...


class Watcher:
    """What is known of the stack so far; `run` keeps it fresh until it is cancelled.

    `endpoints` are base URLs by the name of the service.
    """

    def __init__(
        self,
        endpoints: Mapping[str, str],
        *,
        gateway: GatewayReader,
        history: History,
        told: Callable[[Event], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._endpoints = endpoints
        self._gateway = gateway
        self._history = history
        self._told = told
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._windows: set[tuple[str, str, Any]] = set()
        self._fates: set[tuple[str, str, str]] = set()
        self._decisions: set[tuple[str, int]] = set()
        self.incidents: dict[str, Incident] = {}
        self.runs: dict[str, RunFact] = {}
        self.triggers: tuple[TriggerFact, ...] = ()
        self.rollouts: dict[str, RolloutFact] = {}
        self.weights: Mapping[str, int] = {}
        self.last_scores: Mapping[str, ScoreSample] = {}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, *, period_s: float = 1.0) -> None:
        """Look at everything again and again."""
        while True:
            await self.look()
            await asyncio.sleep(period_s)

    async def look(self) -> None:
        """Look at everything once."""
        await asyncio.gather(
            *(self._incidents_of(monitor) for monitor in MONITORS),
            self._retrainer(),
            self._rollouts(),
            self._compare_weights(),
            self._scores(),
        )

    async def look_back(self) -> None:
        """Once, at the end: everything, and all windows that the monitors remember."""
        await self.look()
        await self._scores(limit=_ALL_WINDOWS)
        self._history.scores.sort(key=lambda sample: sample.time)

    def note(self, kind: str, text: str, **evidence: Any) -> None:
        """Add an event that happens now."""
        self._tell(Event(self._clock.time(), kind, text, evidence))

    def _tell(self, event: Event) -> None:
        self._history.events.append(event)
        self._told(event)

    async def get(self, service: str, path: str, **params: str) -> Any:
        """The JSON that a service answers; None if it does not, or not with 200."""
        url = f"{self._endpoints[service]}{path}"
        try:
            response = await self._http.get(url, params=params)
            return response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None

    async def _incidents_of(self, monitor: str) -> None:
        content = await self.get(monitor, "/v1/incidents")
        for incident in views.incidents(content):
            before = self.incidents.get(incident.id)
            self.incidents[incident.id] = incident
            if before is None:
                evidence = {**incident.evidence, **views.features(incident)}
                text = f"{incident.alertname}: {incident.summary}"
                self._tell(Event(self._clock.time(), "monitor", text, evidence))
            if incident.closed_at is not None and (before is None or before.closed_at is None):
                self.note("monitor", f"{incident.alertname} is over")

    async def _retrainer(self) -> None:
        listed = await self.get("retrainer", "/v1/triggers")
        if listed is not None:  # a trigger's fate can change, so the list replaces the one before
            self.triggers = tuple(views.triggers(listed))
        for trigger in self.triggers:
            key = (trigger.source, str(trigger.detail.get("identity")), trigger.fate)
            if key not in self._fates:
                self._fates.add(key)
                why = f" ({trigger.reason})" if trigger.reason else ""
                self.note("retrainer", f"{trigger.name}: {trigger.fate}{why}", **trigger.detail)
        for run in views.runs(await self.get("retrainer", "/v1/runs")):
            before_run = self.runs.get(run.id)
            self.runs[run.id] = run
            if run.started is not None and (before_run is None or before_run.started is None):
                self.note("pipeline", f"run {run.id} starts: {run.reason}")
            if run.ended is not None and (before_run is None or before_run.ended is None):
                how = "is cancelled" if run.cancelled else f"ends: {run.outcome}"
                self.note("pipeline", f"run {run.id} {how}", **run.detail)

    async def _rollouts(self) -> None:
        for brief in views.rollouts(await self.get("rollout", "/v1/rollouts")):
            before = self.rollouts.get(brief.id)
            if before is not None and before.state in _TERMINAL:
                continue
            whole = views.rollout(await self.get("rollout", f"/v1/rollouts/{brief.id}"))
            if whole is None:
                continue
            self.rollouts[whole.id] = whole
            for number, event in views.decisions(whole):
                if (whole.id, number) not in self._decisions:
                    self._decisions.add((whole.id, number))
                    self._tell(event)

    async def _compare_weights(self) -> None:
        said, applied = await asyncio.gather(
            self.get("rollout", "/v1/weights"), _or_none(self._gateway.applied())
        )
        weights = views.weights(said)
        if weights is None:
            return
        if weights != self.weights:
            shares = ", ".join(f"{arm} {weight} %" for arm, weight in weights.items())
            self.note("gateway", f"weights: {shares or 'none'}", decision=said.get("decision_id"))
        self.weights = weights
        if applied is not None:
            sample = WeightSample(
                self._clock.time(),
                str(said.get("decision_id")),
                weights,
                applied.decision_id,
                {str(arm): weight for arm, weight in applied.weights.items()},
            )
            self._history.weights.append(sample)

    async def _scores(self, *, limit: int = 40) -> None:
        drift, quality = await asyncio.gather(
            self.get("drift", "/v1/drift", limit=str(limit)),
            self.get("quality", "/v1/quality", limit=str(limit)),
        )
        drifting = self._new_windows("drift", drift)
        samples = [sample for window in drifting for sample in views.drift_scores(window)]
        if samples:
            newest = samples[-1].time
            self.last_scores = {s.feature: s for s in samples if s.time == newest}
        for window in self._new_windows("quality", quality):
            samples += views.fault_scores(window)
        self._history.scores.extend(samples)

    def _new_windows(self, monitor: str, content: Any) -> Iterable[Mapping[str, Any]]:
        for window in views.windows(content):
            key = (monitor, str(window.get("version")), window.get("window"))
            if key not in self._windows:
                self._windows.add(key)
                yield window


async def _or_none(reading: Awaitable[RoutePlan | None]) -> RoutePlan | None:
    try:
        return await reading
    except (GatewayError, ValueError, KeyError):
        return None
