"""The local stack: everything a model service needs, on one machine, while a context lasts."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import httpx

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.rollout import DeployedModel
from coalmine.spec import ServiceSpec, load_service
from coalmine.stack._alibi import ALIBI, alibi_python
from coalmine.stack._arms import read_arms
from coalmine.stack._errors import PartFailedError, StackError
from coalmine.stack._leftovers import Leftovers
from coalmine.stack._liveness import keep_answering
from coalmine.stack._offer import check_model
from coalmine.stack._parts import Parts, find_alerting
from coalmine.stack._ports import DEFAULT_PORT, Ports, check_ports, url
from coalmine.stack._services import services_for
from coalmine.stack._state import Part, Running, StateDirectory
from coalmine.stack._supervisor import Supervisor

__all__ = ["Stack", "default_state"]

_log = logging.getLogger(__name__)

_POLL = 0.1
#: A part that ended so often before it ever answered will not answer.
_HOPELESS = 2
#: Seconds that the edge (gateway, arms) has to finish, then the control side: under 5 together.
_EDGE_GRACE, _CONTROL_GRACE = 2.0, 2.3


def default_state(service: ServiceSpec) -> Path:
    """Where a service's state lives unless told otherwise."""
    return Path(".coalmine") / service.name


class Stack:
    """Runs a service file's stack; `async with` starts it, waits until it answers, and stops it.

    The processes are children of this one, restarted when they die, gone when it is. Use it in the
    main thread: the kernel ties the children to the thread that started them.

    Raises `ServiceFileError`, `ModelDirectoryError` or a `StackError`.
    """

    def __init__(
        self,
        service_file: Path,
        *,
        state: Path | None = None,
        port: int = DEFAULT_PORT,
        telemetry: Path | None = None,
        seed: int = 0,
        start_timeout: float = 120.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.service = load_service(service_file)
        check_model(self.service)
        self.state = StateDirectory(state or default_state(self.service))
        self.ports = Ports(port)
        self._file = service_file
        self._clock = clock
        self._start_timeout = start_timeout
        self._parts = Parts(
            service=self.service,
            service_file=service_file,
            state=self.state,
            ports=self.ports,
            telemetry=telemetry,
            seed=seed,
            alerting=find_alerting() if self.service.retraining else None,
            alibi=alibi_python(self.service),
        )
        self._started = 0.0
        self._supervisor = Supervisor(clock=clock, changed=self._say_what_runs)
        self._deployed: dict[Arm, DeployedModel] = {}
        self._leftovers = Leftovers(self.state, collector=f"{url(self.ports.control)}/collector")
        self._exit = AsyncExitStack()

    @property
    def endpoints(self) -> dict[str, str]:
        """URLs by name: `gateway`, `control`, `admin`, each service, each arm, ..."""
        control = url(self.ports.control)
        return {
            "gateway": url(self.ports.gateway),
            "control": control,
            "admin": url(self.ports.admin),
            **{name: f"{control}/{name}" for name in self.services},
            **{arm.value: url(port) for arm, port in self.ports.arms.items()},
            ALIBI: url(self.ports.alibi),
            "prometheus": url(self.ports.prometheus),
            "alertmanager": url(self.ports.alertmanager),
        }

    @property
    def services(self) -> tuple[str, ...]:
        """The apps of the control process."""
        return services_for(self.service, embedded_alerts=self.embedded_alerts)

    @property
    def embedded_alerts(self) -> bool:
        """Whether the embedded notifier is used, not Prometheus and Alertmanager."""
        return self._parts.alerting is None

    def parts(self) -> tuple[Part, ...]:
        """The supervised processes, as they stand now."""
        return self._supervisor.parts()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exit_stack:
            exit_stack.enter_context(self.state.locked())
            check_ports(self.ports, alibi=bool(self._parts.monitors()))
            self._started = self._clock.time()
            exit_stack.push_async_callback(self._stop)
            parts = (self._parts.gateway(), self._parts.control(), *self._parts.monitors())
            for spec in (*parts, *self._parts.alerts()):
                self._supervisor.start(spec)
            follow = asyncio.create_task(self._follow_arms(), name="follow arms.json")
            exit_stack.push_async_callback(_cancel, follow)
            deliver = asyncio.create_task(self._leftovers.deliver(self._deployed))
            exit_stack.push_async_callback(_cancel, deliver)
            await self._wait_until_up()
            address = f"{url(self.ports.control)}/healthz"
            alive = keep_answering(self._supervisor, "control", address)
            watch = asyncio.create_task(alive, name="keep control answering")
            exit_stack.push_async_callback(_cancel, watch)
            self._exit = exit_stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def _wait_until_up(self) -> None:
        checks = {
            "gateway": f"{url(self.ports.admin)}/ready",
            "control": f"{url(self.ports.control)}/healthz",
            **{spec.name: f"{spec.url}/healthz" for spec in self._parts.monitors()},
        }
        give_up = self._clock.monotonic() + self._start_timeout
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while checks:
                for part, address in list(checks.items()):
                    if await _answers(client, address):
                        del checks[part]
                self._give_up_on(checks, late=self._clock.monotonic() > give_up)
                await asyncio.sleep(_POLL)

    def _give_up_on(self, waiting: Collection[str], *, late: bool) -> None:
        """Raise `PartFailedError` if a part that is waited for will not come up."""
        for part in self.parts():
            if part.name in waiting and (late or part.restarts >= _HOPELESS):
                log = self.state.log_of(part.name)
                raise PartFailedError(f"{part.name} does not come up: {last_line(log)} ({log})")

    async def _follow_arms(self) -> None:
        """Run what `arms.json` asks for, now and after every change of it."""
        while True:
            try:
                desired = dict(read_arms(self.state.arms).arms)
                if desired != self._deployed:
                    await self._deploy(desired)
            except (OSError, StackError) as error:
                _log.error("the arms stay as they are: %s", error)
                await asyncio.sleep(1)
            await asyncio.sleep(_POLL)

    async def _deploy(self, desired: dict[Arm, DeployedModel]) -> None:
        gone = [arm for arm, model in self._deployed.items() if desired.get(arm) != model]
        await self._supervisor.stop([arm.value for arm in gone], grace=_EDGE_GRACE + 3)
        for arm in gone:
            del self._deployed[arm]
        for arm, model in desired.items():
            if arm not in self._deployed:
                async with self._leftovers.lock(arm):
                    self._supervisor.start(self._parts.arm(arm, model))
                    self._deployed[arm] = model

    async def _stop(self) -> None:
        edge = [name for name in self._supervisor.names() if name != "control"]
        # The arms first: what they have not yet delivered, the collector can still take.
        await self._supervisor.stop(edge, grace=_EDGE_GRACE)
        await self._supervisor.stop(["control"], grace=_CONTROL_GRACE)

    def _say_what_runs(self) -> None:
        running = Running(
            service=self.service.name,
            file=str(self._file),
            pid=os.getpid(),
            started=self._started,
            parts=self._supervisor.parts(),
            services=self.services,
        )
        try:
            self.state.write_running(running)
        except OSError as error:  # a full disk must not take the stack down
            _log.error("up.json is not up to date: %s", error)


def last_line(log: Path) -> str:
    """The end of a log, which is where a program that failed says why."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return "it has no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


async def _answers(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(address)).status_code == 200
    except httpx.HTTPError:
        return False


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
