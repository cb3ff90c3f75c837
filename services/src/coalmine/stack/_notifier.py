"""The embedded notifier: where there is no Prometheus, it tells the retrainer of incidents.

It asks each monitor for its open incidents and posts what Alertmanager would post. Its state is on
disk before anything is sent, so that a restart neither loses an alert nor fires it anew; a receiver
sees each notification at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path

import httpx
from fastapi import FastAPI, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from pydantic import TypeAdapter, ValidationError

from coalmine.clock import Clock
from coalmine.incidents import Alert, Alerts, Incident, delivered, due, observe, webhook
from coalmine.stack._state import write_json
from coalmine.web import answer_errors

__all__ = ["create_notifier"]

_log = logging.getLogger(__name__)
#: Seconds that a delivery has to end when the app stops.
_GRACE = 1.0
_INCIDENTS = TypeAdapter(list[Incident])


class _Notifier:
    def __init__(
        self,
        monitors: Mapping[str, str],
        *,
        receiver: str,
        external_url: str,
        state: Path,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._monitors = monitors
        self._receiver = receiver
        self._external_url = external_url
        self._state = state
        self._clock = clock
        self.alerts = _load(state)
        self._sent = Counter(
            "coalmine_notifications", "Alerts posted.", ["result"], registry=registry
        )
        self._firing = Gauge("coalmine_alerts_firing", "Incidents open.", registry=registry)

    async def run(self, interval: float, stop: asyncio.Event) -> None:
        """Look, then tell, until `stop`; a monitor or a receiver that is away is asked again."""
        # The environment's proxies are not for the parts of the stack.
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while not stop.is_set():
                try:
                    await self._round(client)
                except OSError as error:
                    # Its state cannot be written, the disk may be full: nothing is forgotten.
                    _log.error("alerts wait: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), interval)

    async def _round(self, client: httpx.AsyncClient) -> None:
        for monitor, base in self._monitors.items():
            await self._look(client, monitor, base)
        for key in due(self.alerts, now=self._clock.time()):
            await self._tell(client, key)

    async def _look(self, client: httpx.AsyncClient, monitor: str, base: str) -> None:
        try:
            response = await client.get(f"{base}/v1/incidents", params={"open": "true"})
            incidents = _INCIDENTS.validate_python(response.raise_for_status().json()["incidents"])
        except (httpx.HTTPError, ValidationError, ValueError, KeyError) as error:
            # Its incidents are neither open nor closed for want of an answer.
            _log.debug("monitor %s does not answer: %r", monitor, error)
            return
        now = self._clock.time()
        await self._become(observe(self.alerts, incidents, monitor=monitor, now=now))

    async def _tell(self, client: httpx.AsyncClient, key: str) -> None:
        alert = self.alerts[key]
        generator = f"{self._monitors.get(alert.monitor, '')}/v1/incidents"
        body = webhook(alert, external_url=self._external_url, generator_url=generator)
        try:
            (await client.post(self._receiver, json=body)).raise_for_status()
        except httpx.HTTPError as error:
            self._sent.labels("failed").inc()
            _log.warning("alert not delivered, to be tried again: %r", error)
            return
        self._sent.labels("delivered").inc()
        _log.info("alert %s", body["status"], extra=dict(alert.labels))
        await self._become(delivered(self.alerts, key, now=self._clock.time()))

    async def _become(self, alerts: Alerts) -> None:
        if alerts != self.alerts:
            content = {key: asdict(alert) for key, alert in alerts.items()}
            await asyncio.to_thread(write_json, self._state, content)
            self.alerts = alerts
        self._firing.set(sum(alert.ends_at is None for alert in alerts.values()))


def _load(state: Path) -> Alerts:
    try:
        content = json.loads(state.read_bytes())
        return {key: Alert(**alert) for key, alert in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        # To be told twice of what is open is better than not at all.
        _log.error("%s is damaged and is begun anew: %s", state, error)
        return {}


def create_notifier(
    monitors: Mapping[str, str],
    *,
    receiver: str,
    external_url: str,
    state: Path,
    clock: Clock,
    registry: CollectorRegistry | None = None,
    interval: float = 1.0,
) -> FastAPI:
    """The notifier as an app: it works while its lifespan lasts.

    `monitors` are base URLs by name, `receiver` is the webhook's URL, `state` a file of its own,
    `interval` the seconds between two looks.
    """
    metrics = CollectorRegistry() if registry is None else registry
    notifier = _Notifier(
        monitors,
        receiver=receiver,
        external_url=external_url,
        state=state,
        clock=clock,
        registry=metrics,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = asyncio.Event()
        work = asyncio.create_task(notifier.run(interval, stop), name="notifier")
        try:
            yield
        finally:
            stop.set()
            # What is being delivered is noted as delivered, or it would be told again.
            await asyncio.wait({work}, timeout=_GRACE)
            work.cancel()
            await asyncio.wait({work})

    app = FastAPI(title="Coalmine notifier", lifespan=lifespan)
    answer_errors(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics_page() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/alerts")
    async def alerts() -> dict[str, list[dict[str, object]]]:
        return {"alerts": [asdict(alert) for alert in notifier.alerts.values()]}

    return app
