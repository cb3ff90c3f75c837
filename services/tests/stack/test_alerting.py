"""The real Prometheus and Alertmanager, as the stack starts them, from a metric to the webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coalmine.clock import SYSTEM_CLOCK
from coalmine.observability import ScrapeTarget, alertmanager_config, prometheus_config
from coalmine.spec import ModelSpec, ServiceSpec
from coalmine.stack import Ports, StateDirectory
from coalmine.stack._parts import EMBEDDED_ALERTS, Parts, find_alerting
from coalmine.stack._supervisor import Supervisor

if TYPE_CHECKING:
    from conftest import World

ALERTING = find_alerting()
SERVICE = ServiceSpec(name="ev", model=ModelSpec(uri="models:/ev@champion"))


def test_the_embedded_notifier_can_be_forced(tmp_path: Path) -> None:
    for program in ("prometheus", "prometheus-alertmanager"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    path = {"PATH": str(tmp_path)}
    assert find_alerting(path) == (
        str(tmp_path / "prometheus"),
        str(tmp_path / "prometheus-alertmanager"),
    )
    assert find_alerting({**path, EMBEDDED_ALERTS: "1"}) is None
    (tmp_path / "prometheus").unlink()
    assert find_alerting(path) is None


@pytest.mark.skipif(ALERTING is None, reason="prometheus and alertmanager are not on the PATH")
async def test_a_metric_becomes_a_webhook_and_its_end_too(
    world: World, tmp_path: Path, free_ports: Ports
) -> None:
    state = StateDirectory(tmp_path)
    state.create()
    parts = Parts(
        service=SERVICE,
        service_file=tmp_path / "coalmine.yaml",
        state=state,
        ports=free_ports,
        alerting=ALERTING,
    )
    supervisor = Supervisor(clock=SYSTEM_CLOCK, changed=lambda: None)
    specs = parts.alerts()
    targets = [ScrapeTarget("drift", world.url.removeprefix("http://"))]
    address = f"127.0.0.1:{free_ports.alertmanager}"
    (tmp_path / "prometheus.yaml").write_text(prometheus_config(targets, alertmanager=address))
    (tmp_path / "alertmanager.yaml").write_text(alertmanager_config(f"{world.url}/alerts"))
    try:
        for spec in specs:
            supervisor.start(spec)
        await asyncio.sleep(3)
        assert world.told == [], "nothing is open"
        world.open_metric = 1
        await until(lambda: [told["status"] for told in world.told] == ["firing"])
        world.open_metric = 0
        await until(lambda: [told["status"] for told in world.told] == ["firing", "resolved"])
    finally:
        await supervisor.stop(supervisor.names(), grace=2)
    (alert,) = world.told[0]["alerts"]
    assert world.told[0]["version"] == "4"
    assert alert["labels"]["alertname"] == "CoalmineDrift"
    assert alert["labels"]["feature"] == "soc"
    assert alert["annotations"]["summary"].endswith("its training data: soc")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.1)
