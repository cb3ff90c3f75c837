"""`coalmine bench`: the gateway and the server as ratios; beside the peers; rollouts; monitors."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from coalmine.cli import _bench_monitors

__all__ = ["app"]

app = typer.Typer(
    invoke_without_command=True,
    epilog="Examples:  coalmine bench --seconds 5 --json bench.json  |  coalmine bench serving",
)


@app.callback()
def bench(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="A running gateway or server", show_default="one is started")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model directory that --url serves", exists=True)
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of one measurement", min=0.1)] = 1.0,
    rounds: Annotated[int, typer.Option(help="Measurements of each target", min=1)] = 3,
    windows: Annotated[list[int] | None, typer.Option(help="Windows of one request")] = None,
    connections: Annotated[list[int] | None, typer.Option(help="Requests at a time")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here too")] = None,
) -> None:
    """Measure the gateway and the model server against the same model in process, as ratios.

    With a command: measure the server beside its peers, or its memory over many requests.
    """
    # Told to end, each ends the processes that it started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell without job control starts what is in the background deaf to Ctrl-C: who sends it to
    # us means us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if context.invoked_subcommand is not None:
        return
    from dataclasses import replace

    from coalmine_loadtests.bench import BenchOptions, run_bench

    options = BenchOptions(url=url, model=model, seconds=seconds, rounds=rounds, json=json)
    if windows:
        options = replace(options, windows=tuple(windows))
    if connections:
        options = replace(options, connections=tuple(connections))
    raise typer.Exit(run_bench(options))


_Peers = Annotated[
    list[str] | None,
    typer.Option(help="A peer or one of its configurations; repeatable", show_default="all"),
]
_Cells = Annotated[
    list[str] | None,
    typer.Option(help="A cell (mlp/json1_c64) or a model (mlp); repeatable", show_default="all"),
]
_Seconds = Annotated[float, typer.Option(help="Length of one measurement", min=0.1)]
_Repeats = Annotated[int, typer.Option(help="Rounds over all servers", min=1)]
_Output = Annotated[Path, typer.Option(help="Where the numbers are written")]
_Resume = Annotated[bool, typer.Option("--resume", help="Measure only what --output lacks")]
_Quick = Annotated[
    bool, typer.Option("--quick", help="One round of 1 s and a short soak: does it all run?")
]
_Soak = Annotated[int, typer.Option(help="Requests of the memory test; 0: none", min=0)]
_Environments = Annotated[
    Path | None,
    typer.Option(
        help="Where the peers are installed", show_default=".bench", envvar="COALMINE_BENCH_DIR"
    ),
]
_Report = Annotated[
    Path | None, typer.Option(help="Measure nothing: show these numbers", exists=True)
]
_Docs = Annotated[
    Path | None, typer.Option(help="Rewrite the tables in this document", exists=True)
]
_Plots = Annotated[Path | None, typer.Option(help="Write plots into this directory")]


@app.command(epilog="Example:  coalmine bench serving --peer coalmine --peer kserve --cell mlp")
def serving(
    peer: _Peers = None,
    cell: _Cells = None,
    seconds: _Seconds = 2.0,
    repeats: _Repeats = 2,
    output: _Output = Path("bench-serving.json"),
    resume: _Resume = False,
    quick: _Quick = False,
    soak: _Soak = 1_000_000,
    environments: _Environments = None,
    report: _Report = None,
    docs: _Docs = None,
    plots: _Plots = None,
) -> None:
    """Serve the same models through Coalmine and through each peer, and compare them.

    The server runs on core 0 and the load on core 1. Needs wrk, h2load and nginx (Debian: wrk,
    nghttp2-client, nginx-light); the peers install themselves.
    """
    from rich.console import Console

    from coalmine_loadtests.serving import (
        SERVERS,
        Results,
        ServingBenchOptions,
        print_results,
        run_serving_bench,
        write_report,
    )

    console = Console()
    if report is not None:
        results = Results.read(report)
        print_results(results, console)
    else:
        options = ServingBenchOptions(
            peers=tuple(peer or ()),
            cells=tuple(cell or ()),
            seconds=1.0 if quick else seconds,
            repeats=1 if quick else repeats,
            output=output,
            resume=resume,
            environments=environments,
            soak=min(soak, 50_000) if quick else soak,
        )
        results = run_serving_bench(options, list(SERVERS.values()), console=console)
    write_report(results, console=console, docs=docs, plots=plots)


@app.command(epilog="Example:  coalmine bench soak --requests 5000000 --records")
def soak(
    requests: Annotated[int, typer.Option(help="Requests to answer", min=1000)] = 1_000_000,
    records: Annotated[bool, typer.Option(help="Record every row meanwhile")] = True,
    limit: Annotated[float, typer.Option(help="Growth in MB that is an error")] = 20.0,
) -> None:
    """Answer a million requests and watch the server's memory; exits 1 if it grew too much."""
    from rich.console import Console

    from coalmine_loadtests.serving import SERVERS, run_soak

    growth = run_soak(list(SERVERS.values()), requests=requests, records=records, console=Console())
    raise typer.Exit(1 if growth > limit else 0)


@app.command(epilog="Examples:  coalmine bench collector  |  coalmine bench collector --kills 200")
def collector(
    seconds: Annotated[float, typer.Option(help="Length of the measurement", min=0.5)] = 10.0,
    rows: Annotated[int, typer.Option(help="Rows of a batch", min=1)] = 1024,
    features: Annotated[int, typer.Option(help="Features of a row", min=1)] = 20,
    senders: Annotated[int, typer.Option(help="Connections that send at once", min=1)] = 4,
    kills: Annotated[
        int, typer.Option(help="Measure nothing: `kill -9` the collector so often instead", min=0)
    ] = 0,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where the log is made", show_default="temporary", exists=True),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here too")] = None,
) -> None:
    """Send record batches to a collector on core 0 from core 1, and find every row in its log.

    With --kills it dies again and again at random moments; what was acknowledged has to be in the
    log once.
    """
    from rich.console import Console
    from rich.progress import Progress

    from coalmine_loadtests.records import (
        CollectorBench,
        run_collector_bench,
        run_kills,
        write_json,
    )

    console = Console()
    if kills:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("kill -9", total=kills)
            found = run_kills(
                kills, directory=directory, told=lambda done: progress.update(task, completed=done)
            )
        console.print(
            f"{found.kills} kills, {found.in_flight} of them while a batch was in flight: "
            f"{found.rows:,} rows acknowledged, none lost, none doubled"
        )
        return
    options = CollectorBench(
        seconds=seconds, rows=rows, features=features, senders=senders, directory=directory
    )
    result = run_collector_bench(options)
    console.print(
        f"{result.rows_per_second:,.0f} rows/s of {features} features, {rows} a batch, durable; "
        f"{result.rows_per_cpu_second:,.0f} rows per second of processor time\n"
        f"acknowledged after {result.median_ms:.1f} ms (median), {result.p99_ms:.1f} ms (p99); "
        f"{result.bytes_per_row_sent:.0f} bytes a row sent, {result.bytes_per_row_on_disk:.0f} "
        f"stored; {result.refused} answers of 429\n"
        f"{result.rows:,} rows acknowledged and found in the log, each once"
    )
    if json is not None:
        write_json(result, json)


@app.command("chaos-rollout", epilog="Example:  coalmine bench chaos-rollout --kills 500 --seed 7")
def chaos_rollout(
    kills: Annotated[int, typer.Option(help="Times the controller is killed", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="Of the instants, and of what is rolled out")] = 0,
    connections: Annotated[int, typer.Option(help="Requests at a time", min=1)] = 4,
    directory: Annotated[
        Path | None,
        typer.Option(help="Keep database, routes and logs here", show_default="nothing is"),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here too")] = None,
) -> None:
    """Kill the rollout controller at random instants of rollouts under load; exits 1 on any harm.

    The gateway and the controller are the real ones. Every weight that the gateway had in force
    must have been in the ledger before, every request be answered, and all come to rest.
    """
    from coalmine.cli._bench_rollout import chaos

    raise typer.Exit(
        chaos(kills=kills, seed=seed, connections=connections, directory=directory, json=json)
    )


@app.command(epilog="Example:  coalmine bench weights --changes 100 --json weights.json")
def weights(
    changes: Annotated[int, typer.Option(help="Weight changes", min=1)] = 100,
    connections: Annotated[int, typer.Option(help="Requests at a time", min=1)] = 8,
    limit: Annotated[float, typer.Option(help="Milliseconds beyond which it exits 1")] = 50.0,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here too")] = None,
) -> None:
    """Change weights at the gateway under load: how long until requests are routed by them?"""
    from coalmine.cli._bench_rollout import change_weights

    raise typer.Exit(
        change_weights(changes=changes, connections=connections, limit=limit, json=json)
    )


@app.command(
    epilog="Examples:  coalmine bench rollout --runs 4000 --world null --world errors  |  "
    "coalmine bench rollout --report bench-rollout.json"
)
def rollout(
    runs: Annotated[int, typer.Option(help="Runs of each world", min=1)] = 300,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers", min=0)] = 1,
    world: Annotated[
        list[str] | None,
        typer.Option(help="A world (null), a kind (errors, p99) or labels; repeatable"),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="How a rule's name begins (coalmine, argo); repeatable"),
    ] = None,
    processes: Annotated[int, typer.Option(help="Processes that share the runs", min=1)] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the numbers into this file")] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="Simulate nothing: show these numbers; repeatable", exists=True),
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Rewrite the table in this document", exists=True)
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the plot into this directory")] = None,
) -> None:
    """Simulate rollouts, and judge them by our evidence and by the rules of others.

    A run is half an hour of a candidate beside a baseline, at 5 requests a second each, looked at
    every minute. Exits 1 if a bar is missed.
    """
    from rich.console import Console

    from coalmine_loadtests.verdicts import (
        RolloutBenchError,
        RolloutBenchOptions,
        missed,
        print_table,
        read_results,
        run_rollout_bench,
        write_rollout_report,
    )

    console = Console()
    try:
        if report:
            results = read_results(report)
        else:
            options = RolloutBenchOptions(
                runs=runs,
                seed=seed,
                worlds=tuple(world or ()),
                rules=tuple(rule or ()),
                processes=processes,
            )
            results = run_rollout_bench(options, console=console)
        print_table(results, console)
        if results.interrupted and not report:
            docs = plots = None  # they stay as they are: the numbers are of a part only
        for path in write_rollout_report(results, json=json, docs=docs, plots=plots):
            console.print(f"wrote {path}")
    except RolloutBenchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if results.interrupted and not report:
        raise typer.Exit(130)
    raise typer.Exit(1 if missed(results) else 0)


_bench_monitors.register(app)
