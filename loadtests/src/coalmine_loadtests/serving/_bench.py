"""All rounds over all servers: what `coalmine bench serving` does between its two tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coalmine_loadtests.bench._server import free_ports
from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._environments import PEERS, Environments, repository
from coalmine_loadtests.serving._errors import AbsentError, ServingBenchError
from coalmine_loadtests.serving._in_process import load_in_process
from coalmine_loadtests.serving._load import missing_tools
from coalmine_loadtests.serving._machine import check_cores, machine, on_core
from coalmine_loadtests.serving._models import MODELS, write_model
from coalmine_loadtests.serving._options import ServingBenchOptions
from coalmine_loadtests.serving._plan import IN_PROCESS, Step, plan, select_cells, select_servers
from coalmine_loadtests.serving._samples import Results, Sample
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._session import started
from coalmine_loadtests.serving._verify import Reference, Verifier

__all__ = ["Bench"]

_PREFIX = "coalmine-bench-"
_ATTEMPTS = 2


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
            raise ServingBenchError(missing)
        check_cores(options.cores)
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
        with on_core(options.cores.load), tempfile.TemporaryDirectory(prefix=_PREFIX) as scratch:
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
                    self._step(
                        step, models[step.model], references[step.model], home=home, number=number
                    )
                    self._save()
        return self.results

    def _install(self) -> None:
        self.results.absent.clear()
        for server in self.servers:
            try:
                if missing := missing_tools(server.programs):
                    raise AbsentError(missing)
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
        for attempt in range(_ATTEMPTS):
            scratch = home / str(attempt)
            scratch.mkdir(parents=True)
            launch = self._launch(step, model, list(verifiers.values()), scratch=scratch)
            try:
                self._measure(server, launch, cells, verifiers, number=number)
            except AbsentError as error:
                # Another process may have taken a port that was free a moment ago.
                if attempt + 1 < _ATTEMPTS:
                    continue
                if not self.results.of_server(server.name):
                    self._absent(server, error)
                    return
                for cell in cells:
                    self._keep(
                        Sample(
                            server=server.name,
                            cell=cell.name,
                            round=number,
                            errors=1,
                            told=str(error),
                        )
                    )
            else:
                return

    def _launch(
        self, step: Step, model: Path, verifiers: Sequence[Verifier], *, scratch: Path
    ) -> Launch:
        http, grpc, spare = free_ports(3)
        replays = step.server.replays
        return Launch(
            python=self._environments.python(step.server.lock),
            peers=repository() / PEERS,
            model=model,
            name=step.model,
            http_port=http,
            grpc_port=grpc,
            spare_port=spare,
            scratch=scratch,
            replies={v.request.path: v.reply() for v in verifiers} if replays else {},
        )

    def _measure(
        self,
        server: Server,
        launch: Launch,
        cells: Sequence[Cell],
        verifiers: Mapping[str, Verifier],
        *,
        number: int,
    ) -> None:
        seconds = self._options.seconds
        with started(server, launch, cores=self._options.cores) as session:
            for cell in cells:
                verifier = verifiers[cell.name]
                self._keep(session.measure(cell, verifier, seconds=seconds, round=number))
            self.results.starts.append(session.start(round=number))

    def _keep(self, sample: Sample) -> None:
        self.results.samples.append(sample)
        shown = f"{sample.rows_per_s:>12,.0f} rows/s  p99 {sample.p99_ms:8.2f} ms"
        if sample.told:
            shown = f"{shown}  {sample.errors} errors: {sample.told}"
        self._tell(f"round {sample.round + 1}  {sample.server:<22}{sample.cell:<20}{shown}")

    def _save(self) -> None:
        self.results.write(self._options.output)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
