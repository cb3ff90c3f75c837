"""One run of the story: stack, training, traffic, the scenario, the reaction, the aftermath."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from coalmine.apps.ev_battery import CLASSES, SCENARIO_WORLDS, SERVICE_FILE, Fleet, FleetConfig
from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.demo import _views as views
from coalmine.demo._account import Account, account_of
from coalmine.demo._history import Event, History
from coalmine.demo._labels import LabelCourier
from coalmine.demo._ledger import Phase, TruthLedger
from coalmine.demo._live import Glance, View
from coalmine.demo._options import DemoOptions, Scenario
from coalmine.demo._scripts import SCRIPTS
from coalmine.demo._spans import Span
from coalmine.demo._traffic import Pace, Traffic
from coalmine.demo._uploads import UploadSource
from coalmine.demo._watcher import Watcher
from coalmine.demo.client import GatewayHealth, GrpcClient, HttpClient
from coalmine.gateway import EnvoyGateway
from coalmine.stack import Stack

__all__ = ["CutShort", "Play"]

_TRAIN_DEADLINE_S = 300.0
_BEFORE_S = 25.0
#: A phase lasts until its accuracy is known to within this (95 %), so that two points between two
#: phases are three and a half standard errors: chance alone fails one run in thousands.
_KNOWN_TO_WITHIN = 0.008
_PHASE_DEADLINE_S = 75.0
_LABELS_DEADLINE_S = 60.0
_RECORDS_DEADLINE_S = 45.0
_RECENT_S = 8.0


class CutShort(Exception):
    """The story cannot go on; the message says why, for a person."""


class Play:
    """Performs one scenario; what it has seen stays readable however it ends."""

    def __init__(
        self,
        options: DemoOptions,
        *,
        state: Path,
        port: int,
        view: View,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.options = options
        self.script = SCRIPTS[options.scenario]
        self.history = History()
        self.ledger = TruthLedger(classes=CLASSES)
        self.stages: list[Span] = []
        self.phases: dict[Phase, Span] = {}
        self.started = clock.time()
        self.injected_at: float | None = None
        self.stable_before: str | None = None
        self.candidate: str | None = None
        self.account = Account()
        self.stage = "start"
        self._clock = clock
        self._view = view
        self.stack = Stack(
            SERVICE_FILE, state=state, port=port, telemetry=options.data, seed=options.seed
        )
        self._gateway = EnvoyGateway(
            self.stack.state.envoy,
            admin_url=self.stack.endpoints["admin"],
            routing=self.stack.service.routing,
        )
        self.watcher = Watcher(
            self.stack.endpoints,
            gateway=self._gateway,
            history=self.history,
            told=lambda event: view.event(event, elapsed=event.time - self.started),
        )
        health = GatewayHealth()
        gateway, name = self.stack.endpoints["gateway"], self.stack.service.name
        self._clients = (
            HttpClient(gateway, model=name, protocol="v1", health=health),
            HttpClient(gateway, model=name, protocol="v2", health=health),
            GrpcClient(gateway.removeprefix("http://"), model=name, health=health),
        )
        self._source = UploadSource(Fleet(FleetConfig(seed=options.seed)))
        self.traffic = Traffic(
            source=self._source,
            clients=self._clients,
            ledger=self.ledger,
            pace=Pace(),
            seed=options.seed,
        )
        self.courier = LabelCourier(self.stack.endpoints["collector"], ledger=self.ledger)

    async def perform(self) -> None:
        """The whole story; raises `CutShort`, and what `Stack` raises."""
        self._glance(per_second=0.0)
        try:
            async with self._staged("start"):
                await self.stack.__aenter__()
            try:
                await self._tell()
            finally:
                self.stage = "stop"
                await self.stack.__aexit__()
        finally:
            for client in self._clients:
                await client.aclose()
            await self.watcher.aclose()
            await self._gateway.aclose()

    def note(self, event: Event) -> None:
        """Add an event from elsewhere, a part that was restarted for one."""
        self.history.events.append(event)
        self._view.event(event, elapsed=event.time - self.started)

    async def _tell(self) -> None:
        async with asyncio.TaskGroup() as background:
            looking = background.create_task(self.watcher.run())
            showing = background.create_task(self._show())
            await self._train()
            sending = background.create_task(self.traffic.run())
            labelling = background.create_task(self.courier.run())
            async with self._staged(Phase.BEFORE):
                await self._phase(Phase.BEFORE, at_least_s=_BEFORE_S, known=True)
                self.stable_before = self.version_answering()
                broken = await self._prepare()
            async with self._staged("react"):
                await self._inject(broken)
                await self._reaction()
            async with self._staged(Phase.AFTER):
                await self._phase(
                    Phase.AFTER,
                    at_least_s=self.script.after_s,
                    known=self.script.compares_accuracy,
                )
            async with self._staged("drain"):
                await self._drain(sending, labelling)
            looking.cancel()
            await asyncio.wait({looking})
            await self.watcher.look_back()
            showing.cancel()

    async def _train(self) -> None:
        async with self._staged("train"):
            rollouts, runs = self.watcher.rollouts, self.watcher.runs
            await self._until(
                lambda: (
                    any(rollout.state == "promoted" for rollout in rollouts.values())
                    or any(run.failed for run in runs.values())
                ),
                deadline_s=_TRAIN_DEADLINE_S,
            )
            if not any(rollout.state == "promoted" for rollout in rollouts.values()):
                why = "; ".join(f"{run.outcome}: {run.why}" for run in runs.values() if run.failed)
                late = f"none after {_TRAIN_DEADLINE_S:.0f} s"
                raise CutShort(f"no champion was trained and promoted: {why or late}")
            name = self.stack.service.name
            async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as http:
                while not await _ready(http, self.stack.endpoints["gateway"], name):
                    await asyncio.sleep(0.2)

    async def _prepare(self) -> str | None:
        """Register the broken model, in a process of its own; its version."""
        if self.options.scenario is not Scenario.BAD_CANDIDATE:
            return None
        arguments = (str(self.stack.state.root), self.stack.service.name, str(self.stable_before))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "coalmine.demo._candidate", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise CutShort(f"the broken model cannot be registered: {errors.decode()[-400:]}")
        return output.decode().split()[-1]

    async def _inject(self, broken: str | None) -> None:
        if broken is not None:
            await self._offer(broken)
            self.candidate = broken
        self._source.change(SCENARIO_WORLDS[self.options.scenario.value])
        self.injected_at = self._clock.time()
        self.watcher.note("demo", f"the scenario {self.options.scenario} begins")

    async def _offer(self, version: str) -> None:
        offer = {
            "version": version,
            "shadow": False,  # so that the canary itself is judged, on live traffic
            "reason": "the demo offers a broken model",
            "actor": "demo",
        }
        url = f"{self.stack.endpoints['rollout']}/v1/rollouts"
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False, timeout=10) as http:
            while True:
                with suppress(httpx.TransportError):
                    response = await http.post(url, json=offer)
                    if response.status_code == 201:
                        return
                    if response.status_code not in (404, 409, 500, 503):
                        raise CutShort(f"the rollout refuses the candidate: {response.text[:300]}")
                await asyncio.sleep(0.5)
                # It may have begun though its answer was lost, and a second offer is refused then.
                begun = views.rollouts(await self.watcher.get("rollout", "/v1/rollouts"))
                if any(rollout.version == version for rollout in begun):
                    return

    async def _reaction(self) -> None:
        start, self.traffic.phase = self._clock.time(), Phase.DURING
        give_up = self._clock.monotonic() + self.script.deadline_s
        not_before = self._clock.monotonic() + self.script.at_least_s
        reacted = await self._until(
            lambda: self.script.reacted(self.watcher, self.stable_before),
            deadline_s=give_up - self._clock.monotonic(),
        )
        if not reacted and self.options.scenario is not Scenario.NONE:
            self.watcher.note(
                "demo", f"not within {self.script.deadline_s:.0f} s: {self.script.awaited}"
            )
        await asyncio.sleep(max(0.0, not_before - self._clock.monotonic()))
        self.phases[Phase.DURING] = Span("during", start, self._clock.time())

    async def _phase(self, phase: Phase, *, at_least_s: float, known: bool) -> None:
        start, self.traffic.phase = self._clock.time(), phase
        await asyncio.sleep(at_least_s)
        give_up = self._clock.monotonic() + _PHASE_DEADLINE_S - at_least_s
        while known and self._clock.monotonic() < give_up:
            accuracy = self.ledger.accuracy(phase)
            if accuracy.high - accuracy.low <= 2 * _KNOWN_TO_WITHIN:
                break
            await asyncio.sleep(1.0)
        self.phases[phase] = Span(str(phase), start, self._clock.time())

    async def _drain(self, sending: asyncio.Task[None], labelling: asyncio.Task[None]) -> None:
        self.traffic.stop()
        await sending
        self.courier.hurry()
        _, late = await asyncio.wait({labelling}, timeout=_LABELS_DEADLINE_S)
        for task in late:
            task.cancel()
        await self._settle_records()

    async def _settle_records(self) -> None:
        """Wait until every record is in the log; the stack delivers what retired arms left."""
        root = self.stack.state.root
        give_up = self._clock.monotonic() + _RECORDS_DEADLINE_S
        while self._clock.monotonic() < give_up:
            stats = await self.watcher.get("collector", "/v1/records/stats")
            self.account = await asyncio.to_thread(account_of, root, stats)
            if self.account.settled:
                return
            await asyncio.sleep(0.5)

    async def _until(self, condition: Callable[[], bool], *, deadline_s: float) -> bool:
        give_up = self._clock.monotonic() + deadline_s
        while not condition():
            if self._clock.monotonic() >= give_up:
                return False
            await asyncio.sleep(0.2)
        return True

    def version_answering(self) -> str | None:
        """The version behind stable, by the newest answer from it."""
        answers = reversed(self.ledger.answers)
        return next((a.version for a in answers if a.arm == "stable"), None)

    @asynccontextmanager
    async def _staged(self, name: str) -> AsyncIterator[None]:
        self.stage = str(name)
        start = self._clock.time()
        try:
            yield
        finally:
            self.stages.append(Span(str(name), start, self._clock.time()))

    async def _show(self) -> None:
        """Keep the view fresh."""
        counts: list[tuple[float, int]] = []
        while True:
            now = self._clock.time()
            counts = [*counts[-10:], (now, self.traffic.stats.requests)]
            (before, sent_before), (_, sent) = counts[0], counts[-1]
            self._glance(per_second=(sent - sent_before) / max(now - before, 1e-3))
            await asyncio.sleep(0.5)

    def _glance(self, *, per_second: float) -> None:
        now, stats = self._clock.time(), self.traffic.stats
        newest = max(self.watcher.rollouts.values(), key=lambda r: r.started, default=None)
        self._view.glance(
            Glance(
                scenario=self.options.scenario,
                stage=self.stage,
                elapsed=now - self.started,
                requests=stats.requests,
                failed=stats.failed,
                resent=stats.resent,
                per_second=per_second,
                weights=self.watcher.weights,
                accuracy=self.ledger.recent(since=now - _RECENT_S),
                scores=self.watcher.last_scores,
                rollout=newest,
            )
        )


async def _ready(http: httpx.AsyncClient, gateway: str, name: str) -> bool:
    try:
        return (await http.get(f"{gateway}/v2/models/{name}/ready")).status_code == 200
    except httpx.TransportError:
        return False
