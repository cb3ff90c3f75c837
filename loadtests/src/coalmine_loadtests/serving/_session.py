"""One start of one server with one model: ready, verified, loaded cell by cell, stopped."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._client import connect
from coalmine_loadtests.serving._errors import AbsentError, ServingBenchError, WrongAnswerError
from coalmine_loadtests.serving._load import Load, Loader
from coalmine_loadtests.serving._machine import Cores
from coalmine_loadtests.serving._process import Memory, PinnedProcess
from coalmine_loadtests.serving._samples import Sample, Start
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._verify import Verifier

__all__ = ["Session", "started"]

_POLL_S = 0.02
_SETTLE_S = 0.5
_SPOT_CHECK_S = 0.25
_WARM_UP_S = 1.0


@dataclass(slots=True)
class Session:
    """A server that is ready."""

    server: Server
    launch: Launch
    cores: Cores
    process: PinnedProcess
    ready_s: float
    idle: Memory

    def start(self, *, round: int) -> Start:
        """The account of this start, after the load."""
        return Start(
            server=self.server.name,
            model=self.launch.name,
            round=round,
            ready_s=self.ready_s,
            idle_rss_mb=self.idle.rss_mb,
            idle_pss_mb=self.idle.pss_mb,
            loaded_pss_mb=self.process.memory().pss_mb,
            account=dict(self.server.account(self.launch)),
        )

    def measure(self, cell: Cell, verifier: Verifier, *, seconds: float, round: int) -> Sample:
        """Verify, warm up, load. A wrong answer is told, and not measured."""
        grpc_port = self.launch.http_port if self.server.same_port else self.launch.grpc_port
        ports = {"http_port": self.launch.http_port, "grpc_port": grpc_port}
        load_directory = self.launch.scratch / "load"
        load_directory.mkdir(exist_ok=True)
        client = connect(cell, **ports)
        try:
            # A replayed answer is right for one request alone.
            spread = 0 if self.server.replays else 1
            answer_bytes = verifier.verify(client, tried=None if spread else 1)
            loader = Loader(
                cell, verifier.request, answer_bytes, core=self.cores.load,
                scratch=load_directory, **ports,
            )  # fmt: skip
            warm = loader.run(min(_WARM_UP_S, seconds))
            before = self.process.cpu_seconds()
            with _spot_checks(lambda n: verifier.check(client, n * spread)) as checks:
                load = loader.run(seconds, like=warm)
            cpu = self.process.cpu_seconds() - before
        except ServingBenchError as error:
            return Sample(
                server=self.server.name, cell=cell.name, round=round, errors=1, told=str(error)
            )
        finally:
            client.close()
        return _sample(load, checks, cell=cell, cpu=cpu, server=self.server.name, round=round)


def _sample(
    load: Load, checks: _SpotChecks, *, cell: Cell, cpu: float, server: str, round: int
) -> Sample:
    asked = max(1, load.requests + checks.asked)
    answered = "" if load.requests else "no request was answered in time"
    errors = load.errors + checks.wrong + bool(answered)
    # A spot check is a request like the others: of a slow model's it is one of twenty.
    rate = 0.0 if errors else asked / load.seconds
    return Sample(
        server=server,
        cell=cell.name,
        round=round,
        requests_per_s=rate,
        rows_per_s=rate * cell.rows,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_us=1e6 * cpu / asked,
        errors=errors,
        told="; ".join(filter(None, (answered, load.told, checks.told))),
    )


@contextmanager
def started(server: Server, launch: Launch, *, cores: Cores) -> Iterator[Session]:
    """A server that is ready; `AbsentError` with what it printed if it will not be."""
    with ExitStack() as stack:
        if server.companion is not None:
            stack.enter_context(
                PinnedProcess(
                    server.companion(launch), core=cores.load, log=launch.scratch / "companion.log"
                )
            )
        begun = time.perf_counter()
        process = stack.enter_context(
            PinnedProcess(
                server.command(launch),
                core=cores.server,
                log=launch.scratch / "server.log",
                environment=server.environment(launch),
            )
        )
        _wait(server, launch, process, until=begun + server.ready_s)
        ready = time.perf_counter() - begun
        time.sleep(_SETTLE_S)
        yield Session(server, launch, cores, process, ready, process.memory())


def _wait(server: Server, launch: Launch, process: PinnedProcess, *, until: float) -> None:
    path = server.ready.format(name=launch.name)
    while not _is_ready(launch.http_port, path):
        if process.ended is not None:
            raise AbsentError(
                f"{server.title} ended with status {process.ended} before it was ready: "
                f"{process.told()}"
            )
        if time.perf_counter() > until:
            raise AbsentError(
                f"{server.title} was not ready after {server.ready_s:g} s: {process.told()}"
            )
        time.sleep(_POLL_S)


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(slots=True)
class _SpotChecks:
    asked: int = 0
    wrong: int = 0
    told: str = ""
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def _spot_checks(check: Callable[[int], object]) -> Iterator[_SpotChecks]:
    """Compare an answer now and then while the load is on; so few that nobody waits for them."""
    checks = _SpotChecks()

    def run() -> None:
        while not checks.over.wait(_SPOT_CHECK_S):
            try:
                check(checks.asked)
            except WrongAnswerError as error:
                checks.wrong += 1
                checks.told = f"under load: {error}"
            checks.asked += 1

    thread = threading.Thread(target=run, name="spot-checks", daemon=True)
    thread.start()
    try:
        yield checks
    finally:
        checks.over.set()
        thread.join()
