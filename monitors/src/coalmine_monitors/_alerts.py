"""Incidents told to an Alertmanager and to a webhook by the monitor itself.

What was told is on disk before anything else is sent, so that a restart neither loses an alert nor
its end. A receiver that is away is told later; each notification arrives at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter

from coalmine.clock import Clock
from coalmine.incidents import (
    Alert,
    Alerts,
    Incident,
    alertmanager,
    delivered,
    due,
    observe,
    webhook,
)
from coalmine.spec import AlertsSpec

__all__ = ["AlertSender"]

_log = logging.getLogger(__name__)
#: Seconds between two looks at the incidents.
_INTERVAL = 1.0
#: How many times `resend` an alert lasts in an Alertmanager that hears no more of it.
_PATIENCE = 3
_TIMEOUT = 5.0


class AlertSender:
    """Tells the destinations of a service file; `run` it while the monitor runs."""

    def __init__(
        self,
        spec: AlertsSpec,
        *,
        monitor: str,
        state: Path,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        """`state` is the monitor's own file: what was told is kept beside it."""
        counter = Counter(
            "coalmine_alert_notifications",
            "Alerts told by the monitor itself.",
            ["monitor", "destination", "result"],
            registry=registry,
        )
        self._clock = clock
        self._destinations: list[_Destination] = []

        def add(name: str, url: str, repeat: float, body: Callable[[Alert], Any]) -> None:
            for result in ("delivered", "failed"):
                counter.labels(monitor, name, result)
            path = state.with_suffix(f".{name}.json")
            self._destinations.append(
                _Destination(
                    name,
                    url,
                    repeat,
                    body,
                    monitor=monitor,
                    state=path,
                    count=lambda result: counter.labels(monitor, name, result).inc(),
                )
            )

        if spec.alertmanager is not None:
            add(
                "alertmanager",
                f"{spec.alertmanager.rstrip('/')}/api/v2/alerts",
                spec.resend,
                lambda alert: [
                    alertmanager(
                        alert,
                        expires_at=clock.time() + _PATIENCE * spec.resend,
                        generator_url="",
                    )
                ],
            )
        if spec.webhook is not None:
            add(
                "webhook",
                spec.webhook,
                float("inf"),
                lambda alert: webhook(alert, external_url="", generator_url=""),
            )

    async def run(self, incidents: Callable[[], Sequence[Incident]]) -> None:
        """Look at the open `incidents` and tell of them, until cancelled."""
        if not self._destinations:
            return
        # The environment's proxies are not for what stands beside the monitor.
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            while True:
                try:
                    found = await asyncio.to_thread(incidents)
                    now = self._clock.time()
                    await asyncio.gather(
                        *(each.round(client, found, now=now) for each in self._destinations)
                    )
                except Exception:
                    # A locked or full disk, say: nothing is forgotten, and it goes on.
                    _log.exception("alerts wait")
                await asyncio.sleep(_INTERVAL)


class _Destination:
    def __init__(
        self,
        name: str,
        url: str,
        repeat: float,
        body: Callable[[Alert], Any],
        *,
        monitor: str,
        state: Path,
        count: Callable[[str], None],
    ) -> None:
        self._name = name
        self._url = url
        self._repeat = repeat
        self._body = body
        self._monitor = monitor
        self._state = state
        self._count = count
        self._alerts = _load(state)
        self._failing = False

    async def round(
        self, client: httpx.AsyncClient, incidents: Sequence[Incident], *, now: float
    ) -> None:
        await self._become(observe(self._alerts, incidents, monitor=self._monitor, now=now))
        for key in due(self._alerts, now=now, repeat=self._repeat):
            # First of all its beginning, then its end: of both a receiver has to know.
            while key in self._alerts and key in due(self._alerts, now=now, repeat=self._repeat):
                if not await self._tell(client, key):
                    return
                await self._become(delivered(self._alerts, key, now=now))

    async def _tell(self, client: httpx.AsyncClient, key: str) -> bool:
        try:
            response = await client.post(self._url, json=self._body(self._alerts[key]))
            response.raise_for_status()
        except httpx.HTTPError as error:
            self._count("failed")
            # Once, not at every try; and without the address, which may hold a secret.
            if not self._failing:
                _log.warning("%s cannot be told of alerts: %s", self._name, type(error).__name__)
            self._failing = True
            return False
        self._count("delivered")
        self._failing = False
        return True

    async def _become(self, alerts: Alerts) -> None:
        if alerts != self._alerts:
            await asyncio.to_thread(_save, self._state, alerts)
            self._alerts = alerts


def _save(path: Path, alerts: Alerts) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({key: asdict(alert) for key, alert in alerts.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _load(path: Path) -> Alerts:
    try:
        content = json.loads(path.read_bytes())
        return {key: Alert(**alert) for key, alert in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        # To be told twice of what is open is better than not at all.
        _log.error("%s is damaged and is begun anew: %s", path, error)
        return {}
