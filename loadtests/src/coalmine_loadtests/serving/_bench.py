"""All rounds over all servers: what `coalmine bench serving` does between its two tables."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coalmine.clock import SYSTEM_CLOCK
from coalmine_loadtests.bench._server import free_ports
from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._environments import PEERS, Environments, repository
from coalmine_loadtests.serving._errors import AbsentError, ServingBenchError
from coalmine_loadtests.serving._in_process import load_in_process
from coalmine_loadtests.serving._load import missing_tools
from coalmine_loadtests.serving._models import MODELS, write_model
from coalmine_loadtests.serving._options import ServingBenchOptions
from coalmine_loadtests.serving._plan import IN_PROCESS, Step, plan, select_cells, select_servers
from coalmine_loadtests.serving._samples import Results, Sample
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._session import started
from coalmine_loadtests.serving._verify import Reference, Verifier

__all__ = ["Bench", "machine"]

_PREFIX = "coalmine-bench-"


class Bench:
    """One run; `results` grows, and is written after every start."""

    def __init__(
        self,
        options: ServingBenchOptions,
        servers: Sequence[Server],
        *,
        environments: Environments,
        tell: Callable[[str], None],
    ) -> None:
        if missing := missing_tools():
            raise ServingBenchError(f"not installed: {'; '.join(missing)}")
        check_cores(options)
        self._options, self._environments, self._tell = options, environments, tell
        self.servers, self._with_in_process = select_servers(options.peers, servers)
        self._cells = select_cells(options.cells)
        known = options.resume and options.output.exists()
        self.results = Results.read(options.output) if known else Results()
        self.results.machine = machine()
        self.results.options = {k: _plain(v) for k, v in asdict(options).items()}
        self.results.titles |= {server.name: server.title for server in self.servers}
        if self._with_in_process:
            self.results.titles[IN_PROCESS] = "ONNX Runtime in process (ceiling)"

    def run(self) -> Results:
        """Measure everything that was asked for."""
        options = self._options
        with _on_core(options.cores.load), tempfile.TemporaryDirectory(prefix=_PREFIX) as scratch:
            directory = Path(scratch)
            wanted = {cell.model for cell in self._cells}
            models = {n: write_model(MODELS[n], directory / "models") for n in wanted}
            references = {name: Reference(path) for name, path in models.items()}
            self._install()
            steps = plan(self.servers, self._cells)
            for number in range(options.repeats):
                self._in_process(models, number)
                # Every other round backwards: a machine that slows down hits all alike.
                for step in steps if number % 2 == 0 else reversed(steps):
                    home = directory / f"{step.server.name}-{step.model}-{number}"
                    home.mkdir()
                    self._step(
                        step, models[step.model], references[step.model], home=home, number=number
                    )
                    self._save()
        return self.results

    def _install(self) -> None:
        self.results.absent.clear()
        for server in self.servers:
            try:
                versions = self._environments.versions(server.lock, server.distributions)
            except AbsentError as error:
                self._absent(server, error)
            else:
                self.results.versions[server.peer] = versions

    def _absent(self, server: Server, error: AbsentError) -> None:
        self.results.absent[server.name] = str(error)
        self._tell(f"{server.name}: ABSENT: {error}")

    def _in_process(self, models: dict[str, Path], number: int) -> None:
        cells = [c for c in self._cells if c.protocol == "call" and self._with_in_process]
        for cell in self._missing(cells, server=IN_PROCESS, number=number):
            load = load_in_process(
                cell,
                models[cell.model],
                seconds=self._options.seconds,
                core=self._options.cores.server,
            )
            rate = load.requests / load.seconds
            sample = Sample(
                server=IN_PROCESS, cell=cell.name, round=number, requests_per_s=rate,
                rows_per_s=rate * cell.rows, p50_ms=load.p50_ms, p99_ms=load.p99_ms,
            )  # fmt: skip
            self._keep(sample)

    def _missing(self, cells: Sequence[Cell], *, server: str, number: int) -> list[Cell]:
        return [c for c in cells if not self.results.has(server, c.name, number)]

    def _step(
        self, step: Step, model: Path, reference: Reference, *, home: Path, number: int
    ) -> None:
        server = step.server
        cells = self._missing(step.cells, server=server.name, number=number)
        if not cells or server.name in self.results.absent:
            return
        verifiers = {cell.name: Verifier(cell, server.wire, reference) for cell in cells}
        replies = {v.request.path: v.reply() for v in verifiers.values()} if server.replays else {}
        http, grpc, spare = free_ports(3)
        launch = Launch(
            python=self._environments.python(server.lock), peers=repository() / PEERS,
            model=model, name=step.model, http_port=http, grpc_port=grpc, spare_port=spare,
            scratch=home, replies=replies,
        )  # fmt: skip
        try:
            with started(server, launch, cores=self._options.cores) as session:
                for cell in cells:
                    self._keep(
                        session.measure(
                            cell,
                            verifiers[cell.name],
                            seconds=self._options.seconds,
                            round=number,
                        )
                    )
                self.results.starts.append(session.start(round=number))
        except AbsentError as error:
            self._absent(server, error)

    def _keep(self, sample: Sample) -> None:
        self.results.samples.append(sample)
        shown = f"{sample.rows_per_s:>12,.0f} rows/s  p99 {sample.p99_ms:8.2f} ms"
        if sample.told:
            shown = f"{shown}  {sample.errors} errors: {sample.told}"
        self._tell(f"round {sample.round + 1}  {sample.server:<22}{sample.cell:<20}{shown}")

    def _save(self) -> None:
        self.results.write(self._options.output)


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Keep this process on the core of the load: it verifies, and spot-checks, meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def check_cores(options: ServingBenchOptions) -> None:
    """`ServingBenchError` unless there are two cores to pin to."""
    usable = os.sched_getaffinity(0)
    wanted = {options.cores.server, options.cores.load}
    if len(wanted) < 2 or not wanted <= usable:
        raise ServingBenchError(
            f"the server and the load need a core each: asked for {options.cores.server} and "
            f"{options.cores.load}, usable are {sorted(usable)}"
        )


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "measured": SYSTEM_CLOCK.time(),
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
