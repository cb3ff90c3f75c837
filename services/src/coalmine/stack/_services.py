"""The services of the control side: how each is put together from the others' addresses.

One place wires every app, whether all run in one process (`coalmine up`) or each alone (`coalmine
run`). Imports are inside: a process loads what it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.spec import ServiceSpec
from coalmine.stack._alibi import ALIBI
from coalmine.stack._errors import StackError
from coalmine.stack._ports import Ports, url
from coalmine.stack._state import StateDirectory

if TYPE_CHECKING:
    from fastapi import FastAPI

    from coalmine.records import Retention
    from coalmine.rollout import ArmHost, EvidenceSource, Router

__all__ = [
    "MONITORS",
    "SERVICES",
    "Surroundings",
    "build_service",
    "local_data_plane",
    "services_for",
]

MONITORS = ("drift", "performance", "quality")
#: In the order in which they start: a service finds those before it.
SERVICES = ("collector", *MONITORS, "rollout", "retrainer", "notifier")


def services_for(service: ServiceSpec, *, embedded_alerts: bool) -> tuple[str, ...]:
    """The services that a model service needs, in their order."""
    unneeded: set[str] = set()
    if service.retraining is None:
        unneeded |= {"retrainer", "notifier"}  # there is nobody to tell
    if not embedded_alerts:
        unneeded.add("notifier")
    return tuple(name for name in SERVICES if name not in unneeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a service is given: the model service, where state lives, where the others are."""

    service: ServiceSpec
    state: StateDirectory
    ports: Ports
    telemetry: Path | None = None
    """Real telemetry for the first training; None: the application's simulator."""

    seed: int = 0
    cluster: bool = False
    """Whether rollouts act upon the cluster of the service file, not on the local gateway."""

    clock: Clock = SYSTEM_CLOCK
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def url_of(self, service: str) -> str:
        """Base URL of another service: `COALMINE_<NAME>_URL`, else the local control process."""
        given = self.environ.get(f"COALMINE_{service.upper()}_URL")
        if service == ALIBI:  # a process of its own
            return given or url(self.ports.alibi)
        return given or f"{url(self.ports.control)}/{service}"

    @property
    def log_url(self) -> str:
        """The record log."""
        url = f"sqlite:///{self.state.database('records').absolute()}"
        archive = quote(str(self.archive.absolute()))
        return f"{url}?archive={archive}" if self.service.records.archive else url

    @property
    def archive(self) -> Path:
        """Where Parquet files of records lie that may have left the log."""
        return self.state.root / "archive"


async def build_service(name: str, around: Surroundings, resources: AsyncExitStack) -> FastAPI:
    """The app of one of `SERVICES`; what it needs open is closed by `resources`."""
    if name == "collector":
        return _collector(around, resources)
    if name in MONITORS:
        return _monitor(name, around, resources)
    if name == "rollout":
        return await _rollout(around, resources)
    if name == "retrainer":
        return _retrainer(around)
    if name == "notifier":
        return _notifier(around)
    raise StackError(f"no service is named {name!r}; there are: {', '.join(SERVICES)}")


def _collector(around: Surroundings, resources: AsyncExitStack) -> FastAPI:
    from coalmine.records import create_collector, open_log

    log = open_log(around.log_url, clock=around.clock)
    resources.callback(log.close)
    return create_collector(
        log,
        clock=around.clock,
        models=around.state.models.absolute(),
        retention=_retention(around),
    )


def _retention(around: Surroundings) -> Retention | None:
    """What the service file says; None: all records stay. No monitor loses what it has to judge."""
    from coalmine.incidents import ALERT_NAMES
    from coalmine.records import Retention, monitor_consumer

    spec = around.service.records
    if spec.max_age is None and spec.max_bytes is None:
        return None
    return Retention(
        max_age=spec.max_age,
        max_bytes=spec.max_bytes,
        archive=around.archive.absolute() if spec.archive else None,
        consumers=tuple(monitor_consumer(around.service.name, kind) for kind in ALERT_NAMES),
    )


def _monitor(name: str, around: Surroundings, resources: AsyncExitStack) -> FastAPI:
    import coalmine_monitors
    from coalmine.records import open_log

    create = {
        "drift": coalmine_monitors.create_drift_app,
        "performance": coalmine_monitors.create_performance_app,
        "quality": coalmine_monitors.create_quality_app,
    }[name]
    log = open_log(around.log_url, clock=around.clock)
    resources.callback(log.close)
    return create(
        around.service,
        log=log,
        state=around.state.database(name),
        models=around.state.models.absolute(),
        clock=around.clock,
    )


async def _rollout(around: Surroundings, resources: AsyncExitStack) -> FastAPI:
    from coalmine.retraining import local_registry
    from coalmine.rollout import create_app

    router, host = await (_cluster if around.cluster else local_data_plane)(around, resources)
    return create_app(
        around.service,
        state=around.state.database("rollout"),
        router=router,
        host=host,
        registry=local_registry(around.service.name, state=around.state.root),
        evidence_url=around.url_of("performance"),
        requests=_requests_source(around),
        clock=around.clock,
    )


def _requests_source(around: Surroundings) -> EvidenceSource | None:
    """Who counts requests for the rollout; None: the performance monitor."""
    from coalmine.rollout import PrometheusEvidence, ScrapeEvidence

    spec = around.service.rollout.evidence
    name, clock = around.service.name, around.clock
    if spec.requests == "scrape":
        if around.cluster:
            raise StackError(
                "rollout.evidence.requests: scrape reads the servers of this machine; on a cluster "
                "use prometheus, or monitor"
            )
        urls = {arm: url(port) for arm, port in around.ports.arms.items()}
        return ScrapeEvidence(urls, model_name=name, block_s=spec.block, clock=clock)
    if spec.requests == "prometheus":
        address = spec.prometheus or (None if around.cluster else url(around.ports.prometheus))
        if address is None:
            raise StackError("rollout.evidence.prometheus: give its address on a cluster")
        return PrometheusEvidence(address, model_name=name, block_s=spec.block, clock=clock)
    return None


async def local_data_plane(
    around: Surroundings, resources: AsyncExitStack
) -> tuple[Router, ArmHost]:
    """The gateway and the arms of this machine."""
    from coalmine.gateway import EnvoyGateway
    from coalmine.stack._arms import LocalArmHost

    gateway = EnvoyGateway(
        around.state.envoy.absolute(),
        admin_url=url(around.ports.admin),
        routing=around.service.routing,
        clock=around.clock,
    )
    await resources.enter_async_context(gateway)
    arms = around.state.arms
    return gateway, LocalArmHost(arms, model_name=around.service.name, ports=around.ports.arms)


async def _cluster(around: Surroundings, resources: AsyncExitStack) -> tuple[Router, ArmHost]:
    from coalmine.rollout.routers import ClusterConfigError, open_data_plane

    try:
        plane = open_data_plane(around.service, environ=around.environ, clock=around.clock)
    except ClusterConfigError as error:
        raise StackError(str(error)) from error
    await resources.enter_async_context(plane)
    return plane, plane


def _retrainer(around: Surroundings) -> FastAPI:
    from coalmine.retraining import create_app

    if around.service.retraining is None:
        raise StackError(
            "retraining: the service file has no such section, add one with `pipeline`"
        )
    return create_app(
        around.service,
        state=around.state.root.absolute(),
        log_uri=around.log_url,
        quality_url=around.url_of("quality"),
        rollout_url=around.url_of("rollout"),
        telemetry=around.telemetry,
        seed=around.seed,
        clock=around.clock,
    )


def _notifier(around: Surroundings) -> FastAPI:
    from coalmine.stack._notifier import create_notifier

    monitors = (*MONITORS, ALIBI) if around.service.monitors.alibi else MONITORS
    return create_notifier(
        {monitor: around.url_of(monitor) for monitor in monitors},
        receiver=f"{around.url_of('retrainer')}/v1/alerts",
        external_url=around.url_of("notifier"),
        state=around.state.root / "notifier.json",
        clock=around.clock,
    )
