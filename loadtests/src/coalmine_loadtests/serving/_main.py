"""What `coalmine bench serving` and `coalmine bench soak` call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from coalmine_loadtests.serving._bench import Bench
from coalmine_loadtests.serving._environments import Environments
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._machine import Cores
from coalmine_loadtests.serving._options import ServingBenchOptions
from coalmine_loadtests.serving._plots import write_plots
from coalmine_loadtests.serving._samples import Results
from coalmine_loadtests.serving._server import Server
from coalmine_loadtests.serving._soak import soak
from coalmine_loadtests.serving._table import print_results, write_docs

__all__ = ["run_serving_bench", "run_soak", "write_report"]

_SOAKED = "coalmine"


def run_serving_bench(
    options: ServingBenchOptions,
    servers: Sequence[Server],
    *,
    console: Console,
    environments: Environments | None = None,
) -> Results:
    """Measure, print and write; a bar that is missed is told, and is no error."""

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    environments = environments or Environments(directory=options.environments, tell=tell)
    bench = Bench(options, servers, environments=environments, tell=tell)
    results = bench.run()
    ours = [server for server in servers if server.name == _SOAKED]
    measured = [server.name for server in bench.servers]
    if options.soak and ours and _SOAKED in measured and results.soak is None:
        try:
            results.soak = soak(
                ours[0],
                requests=options.soak,
                cores=options.cores,
                environments=environments,
                tell=tell,
            ).as_dict()
        except ServingBenchError as error:
            tell(f"soak: {error}")
        results.write(options.output)
    print_results(results, console)
    tell(f"written: {options.output}")
    return results


def run_soak(servers: Sequence[Server], *, requests: int, records: bool, console: Console) -> float:
    """Soak Coalmine, print, and return the growth of its RSS in MB."""
    name = _SOAKED if records else f"{_SOAKED}-unrecorded"
    (server,) = (server for server in servers if server.name == name)
    soaked = soak(
        server,
        requests=requests,
        cores=Cores(),
        environments=Environments(),
        tell=lambda line: console.print(line, highlight=False, markup=False),
    )
    console.print(f"RSS grew by {soaked.growth_mb:.1f} MB over {soaked.requests:,} requests")
    return soaked.growth_mb


def write_report(
    results: Results, *, console: Console, docs: Path | None = None, plots: Path | None = None
) -> None:
    """Write the plots, and the document's tables with the plots among them."""
    written = write_plots(results, plots) if plots is not None else []
    if docs is not None:
        write_docs(results, docs, plots=written)
        written.append(docs)
    for path in written:
        console.print(f"written: {path}")
