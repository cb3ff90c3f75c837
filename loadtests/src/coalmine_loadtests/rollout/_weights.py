"""Weight changes under load: how long from the write until requests are routed by it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK
from coalmine.gateway import EnvoyGateway, RoutePlan
from coalmine.rollout import DeployedModel
from coalmine.stack import LocalArmHost
from coalmine_loadtests.bench import BenchError
from coalmine_loadtests.rollout._ground import Ground
from coalmine_loadtests.rollout._load import Load

__all__ = ["WeightsOptions", "WeightsReport", "run_weights"]

_READY_S = 60.0
_ROUTED_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOptions:
    """What to do."""

    changes: int = 100
    connections: int = 8
    pause: float = 0.005
    """Seconds between two requests of a connection."""

    between: float = 0.1
    """Seconds between two changes."""


@dataclass(slots=True)
class WeightsReport:
    """What was measured; seconds since the change was asked for."""

    routed: list[float] = field(default_factory=list)
    """Until the first answer of the arm that had no share before."""

    acknowledged: list[float] = field(default_factory=list)
    """Until the gateway's admin port showed the decision (`version_text`), and `apply` returned."""

    ordinary: list[float] = field(default_factory=list)
    """A request's answer, meanwhile: what any exchange with a process takes on this machine now."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)

    def summary(self, seconds: list[float]) -> dict[str, float]:
        """Median, 99th percentile and largest, in milliseconds."""
        ordered = sorted(1000.0 * each for each in seconds)
        last = len(ordered) - 1
        return {
            "median": ordered[last // 2],
            "p99": ordered[round(0.99 * last)],
            "max": ordered[last],
        }


def run_weights(
    options: WeightsOptions, *, progress: Callable[[int], None] = lambda done: None
) -> WeightsReport:
    """Send all requests to the one arm, then to the other, and so on, under load."""
    with tempfile.TemporaryDirectory(prefix="coalmine-weights-") as temporary:
        return asyncio.run(_measure(options, Ground.make(Path(temporary)), progress))


async def _measure(
    options: WeightsOptions, ground: Ground, progress: Callable[[int], None]
) -> WeightsReport:
    load = Load(ground, connections=options.connections, pause=options.pause)
    report = WeightsReport()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ground.up())
        gateway = await stack.enter_async_context(
            EnvoyGateway(ground.envoy, admin_url=ground.admin_url, routing=ground.routing)
        )
        await _deploy(ground)
        await gateway.apply(RoutePlan("before", {Arm.STABLE: 100}))
        await stack.enter_async_context(load.flowing())
        await asyncio.sleep(0.5)
        for number in range(options.changes):
            arm = (Arm.CANARY, Arm.STABLE)[number % 2]
            await _change(RoutePlan(f"change-{number}", {arm: 100}), gateway, load, report)
            progress(number + 1)
            await asyncio.sleep(options.between)
    report.requests, report.failed, report.ordinary = load.sent, load.failed, list(load.took)
    return report


async def _change(
    plan: RoutePlan, gateway: EnvoyGateway, load: Load, report: WeightsReport
) -> None:
    (arm,) = plan.weights
    # It has had no share for a while: whatever it answers now was routed by the new plan.
    routed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    load.awaited[arm.value] = routed
    began = SYSTEM_CLOCK.monotonic()
    await gateway.apply(plan)
    report.acknowledged.append(SYSTEM_CLOCK.monotonic() - began)
    report.routed.append(await asyncio.wait_for(routed, _ROUTED_S) - began)


async def _deploy(ground: Ground) -> None:
    host = LocalArmHost(ground.arms_file, model_name=ground.name, ports=ground.arm_ports)
    for arm in (Arm.STABLE, Arm.CANARY):
        host.deploy(arm, DeployedModel(arm.value, ground.root, "sha256:0"))
    until = SYSTEM_CLOCK.monotonic() + _READY_S
    for arm in (Arm.STABLE, Arm.CANARY):
        while not await host.ready(arm, arm.value):
            if SYSTEM_CLOCK.monotonic() > until:
                raise BenchError("the arms' servers do not start")
            await asyncio.sleep(0.05)
