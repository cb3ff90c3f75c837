"""The benchmark from its options to its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from coalmine_loadtests.monitors._characteristics import (
    Sizes,
    compare,
    count_false_alarms,
    coverage,
    psi_share,
)
from coalmine_loadtests.monitors._detectors import METHODS, OURS, SHIPPED, Detectors, Method
from coalmine_loadtests.monitors._errors import MonitorBenchError
from coalmine_loadtests.monitors._results import Results
from coalmine_loadtests.monitors._streams import StreamFile, judge_stream
from coalmine_loadtests.monitors._throughput import merge, soak, throughput
from coalmine_loadtests.monitors._validity import validity
from coalmine_loadtests.monitors._worlds import NULLS, World
from coalmine_loadtests.serving._machine import machine

__all__ = ["PARTS", "MonitorBenchOptions", "run_monitor_bench"]

PARTS = ("nulls", "delays", "estimates", "throughput", "streams")
#: The worlds in which methods are compared; the others are Coalmine's own.
_COMPARED = NULLS[:3]


_Job = tuple[str, Callable[[], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorBenchOptions:
    """What to measure, and how much of it."""

    parts: tuple[str, ...] = PARTS
    peers: tuple[str, ...] = ()
    """Beginnings of methods' names; empty: all. Coalmine is always among them."""

    runs: int = 20
    windows: int = 100
    window: int = 500
    reference: int = 40
    run_length: float = 100.0
    budget: float = 60.0
    seed: int = 1
    throughput_rows: int = 100_000
    throughput_windows: tuple[int, ...] = (500, 2_000, 100_000)
    repeats: int = 3
    soak_rows: int = 100_000_000
    partitions: int = 200
    streams: tuple[StreamFile, ...] = ()
    reference_rows: int | None = None
    output: Path = Path("bench-monitors.json")
    environments: Path | None = None

    @property
    def sizes(self) -> Sizes:
        """Of the simulations."""
        return Sizes(
            runs=self.runs,
            windows=self.windows,
            window=self.window,
            reference=self.reference,
            run_length=self.run_length,
            budget=self.budget,
            seed=self.seed,
        )


@dataclass(slots=True)
class _Bench:
    options: MonitorBenchOptions
    detectors: Detectors
    methods: tuple[Method, ...]
    results: Results
    jobs: list[_Job] = field(default_factory=list)

    @property
    def ours(self) -> Method:
        return self.methods[0]

    def plan(self) -> None:
        """List what is to be done, the methods of a world side by side."""
        for part in self.options.parts:
            self.jobs += _PLANS[part](self)

    def _nulls(self, world: World) -> None:
        worker = self.detectors.worker(self.ours)
        for kind in ("declared", "as shipped"):
            found = count_false_alarms(worker, world, self.options.sizes, method=kind)
            self.results.nulls.setdefault(world.name, {})[kind] = found

    def _delays(self, world: World, method: Method) -> None:
        worker = self.detectors.worker(method)
        for shift, found in compare(worker, method, world, self.options.sizes):
            shifts = self.results.delays.setdefault(world.name, {})
            shifts.setdefault(shift, {})[method.name] = found

    def _estimates(self) -> None:
        sizes = self.options.sizes
        worker = self.detectors.worker(self.ours)
        self.results.psi = psi_share(worker, sizes)
        self.results.coverage[OURS] = coverage(worker, sizes)
        self.results.validity = validity(worker, sizes)
        for method in self.methods:
            if method.library == "NannyML":
                self.results.coverage["NannyML"] = coverage(self.detectors.worker(method), sizes)
                break

    def _throughput(self, window: int, method: Method) -> None:
        found = throughput(
            self.detectors,
            method,
            rows=self.options.throughput_rows,
            window=window,
            repeats=self.options.repeats,
        )
        self.results.throughput.setdefault(str(window), {})[method.name] = found

    def _soak(self) -> None:
        options = self.options
        self.results.soak = soak(
            self.detectors, self.ours, rows=options.soak_rows, window=options.window
        )
        self.results.merge = merge(
            self.detectors, self.ours, partitions=options.partitions, window=10 * options.window
        )

    def _stream(self, stream: StreamFile, method: Method) -> None:
        self.results.streams.setdefault(stream.name, {})[method.name] = judge_stream(
            self.detectors.worker(method),
            method,
            stream,
            window=self.options.window,
            reference_rows=self.options.reference_rows,
            run_length=self.options.run_length,
        )


def _null_jobs(bench: _Bench) -> list[_Job]:
    return [(f"nulls: {world.name}", partial(bench._nulls, world)) for world in NULLS]


def _delay_jobs(bench: _Bench) -> list[_Job]:
    return [
        (f"delays: {world.name}, {method.name}", partial(bench._delays, world, method))
        for world in _COMPARED
        for method in bench.methods
    ]


def _speed_jobs(bench: _Bench) -> list[_Job]:
    jobs: list[_Job] = [
        (f"throughput: windows of {window}, {m.name}", partial(bench._throughput, window, m))
        for window in bench.options.throughput_windows
        for m in (*bench.methods, SHIPPED)
    ]
    return [*jobs, (f"memory over {bench.options.soak_rows:,} rows", bench._soak)]


def _stream_jobs(bench: _Bench) -> list[_Job]:
    return [
        (f"stream: {stream.name}, {method.name}", partial(bench._stream, stream, method))
        for stream in bench.options.streams
        for method in bench.methods
    ]


_PLANS: dict[str, Callable[[_Bench], list[_Job]]] = {
    "nulls": _null_jobs,
    "delays": _delay_jobs,
    "estimates": lambda bench: [("PSI and CBPE", bench._estimates)],
    "throughput": _speed_jobs,
    "streams": _stream_jobs,
}


def run_monitor_bench(options: MonitorBenchOptions, *, console: Console) -> Results:
    """Measure, writing what is complete after each step; MonitorBenchError for a wrong name.

    What a library cannot do is noted among the failures. Interrupted, it returns what there is.
    """
    _check_parts(options.parts)
    with Detectors(environments=options.environments, tell=console.print) as detectors:
        return _run(options, detectors, console=console)


def _run(options: MonitorBenchOptions, detectors: Detectors, *, console: Console) -> Results:
    methods = detectors.available(_chosen(options.peers))
    results = Results(options=asdict(options.sizes), machine=machine())
    results.versions = {method.library: detectors.version(method) for method in methods}
    bench = _Bench(options, detectors, methods, results)
    bench.plan()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("starting", total=len(bench.jobs))
        try:
            for name, job in bench.jobs:
                shown.update(task, description=name)
                try:
                    job()
                except MonitorBenchError as error:
                    if OURS in name or ":" not in name:
                        raise
                    results.failures.append(f"{name}: {error}")
                shown.update(task, advance=1)
                results.write(options.output)
        except KeyboardInterrupt:
            shown.stop()
            results.interrupted = True
            console.print("interrupted: what follows is what was complete")
    return results


def _check_parts(parts: tuple[str, ...]) -> None:
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        raise MonitorBenchError(
            f"--part {wrong[0]}: there is none such; there are {', '.join(PARTS)}"
        )


def _chosen(peers: tuple[str, ...]) -> tuple[Method, ...]:
    found = {METHODS[0].name: METHODS[0]}
    for peer in peers:
        matching = [each for each in METHODS if each.name.lower().startswith(peer.lower())]
        if not matching:
            names = ", ".join(each.name for each in METHODS)
            raise MonitorBenchError(f"--peer {peer}: there is none such; there are {names}")
        found |= {each.name: each for each in matching}
    return tuple(found.values()) if peers else METHODS
