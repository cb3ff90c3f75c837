"""`coalmine bench monitors`: false alarms, delay, power, throughput, memory, beside the peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_PARTS = "nulls, delays, estimates, throughput, streams"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=(
            "Examples:  coalmine bench monitors --part throughput --peer alibi  |  "
            "coalmine bench monitors --stream elec2.csv --label-column class --part streams  |  "
            "coalmine bench monitors --report bench-monitors.json"
        )
    )(monitors)


def monitors(
    part: Annotated[
        list[str] | None, typer.Option(help=f"One of {_PARTS}; repeatable", show_default="all")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="How a method's name begins (alibi, river ADWIN); repeatable"),
    ] = None,
    runs: Annotated[int, typer.Option(help="Simulated runs of each world", min=2)] = 20,
    windows: Annotated[int, typer.Option(help="Null windows of a run", min=5)] = 100,
    window: Annotated[int, typer.Option(help="Rows of a window", min=50)] = 500,
    reference: Annotated[int, typer.Option(help="Windows of the reference", min=20)] = 40,
    run_length: Annotated[
        float, typer.Option(help="Windows between false alarms at which all are compared", min=2)
    ] = 100.0,
    budget: Annotated[
        float,
        typer.Option(help="Processor's seconds of a method in a world; a slow one gets fewer runs"),
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same streams", min=0)] = 1,
    rows: Annotated[
        int, typer.Option(help="Rows over which memory is watched", min=1000)
    ] = 100_000_000,
    partitions: Annotated[int, typer.Option(help="Partitions that are merged", min=1)] = 200,
    stream: Annotated[
        list[Path] | None,
        typer.Option(help="A public stream: CSV with a header; repeatable", exists=True),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of --stream that is no feature")
    ] = None,
    change: Annotated[
        list[int] | None, typer.Option(help="Row of --stream where it changes; repeatable")
    ] = None,
    reference_rows: Annotated[
        int | None, typer.Option(help="First rows of --stream that are the reference", min=1)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="As little as shows that it all runs")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where the numbers are written")] = Path(
        "bench-monitors.json"
    ),
    environments: Annotated[
        Path | None,
        typer.Option(
            help="Where the peers are installed", show_default=".bench", envvar="COALMINE_BENCH_DIR"
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            help="Measure nothing: show these numbers; repeatable, parts of a benchmark become one",
            exists=True,
        ),
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Rewrite the tables in this document", exists=True)
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write plots into this directory")] = None,
) -> None:
    """Judge the same streams with Coalmine's drift monitor and with its peers.

    Each method's threshold is set on streams where nothing happens, for the same realised run
    length; then delays are compared. Throughput and memory are measured in the same run. The peers
    install themselves. Exits 1 if a bar is missed, and 130 if it was interrupted: what was complete
    is shown and in --output.
    """
    from rich.console import Console

    from coalmine_loadtests.monitors import (
        MonitorBenchError,
        MonitorBenchOptions,
        Results,
        joined,
        missed,
        print_results,
        read_stream,
        run_monitor_bench,
        write_report,
    )

    console = Console()
    try:
        if report:
            results = joined([Results.read(path) for path in report])
        else:
            options = MonitorBenchOptions(
                parts=tuple(part or _PARTS.split(", ")),
                peers=tuple(peer or ()),
                runs=2 if quick else runs,
                windows=10 if quick else windows,
                window=window,
                reference=20 if quick else reference,
                run_length=run_length,
                budget=1.0 if quick else budget,
                seed=seed,
                throughput_rows=10_000 if quick else 100_000,
                repeats=1 if quick else 3,
                soak_rows=min(rows, 1_000_000) if quick else rows,
                partitions=partitions,
                streams=tuple(
                    read_stream(path, label_column=label_column, changes=tuple(change or ()))
                    for path in stream or ()
                ),
                reference_rows=reference_rows,
                output=output,
                environments=environments,
            )
            results = run_monitor_bench(options, console=console)
        print_results(results, console)
        if results.interrupted and not report:
            docs = plots = None  # they stay as they are: the numbers are of a part only
        for path in write_report(results, docs=docs, plots=plots):
            console.print(f"wrote {path}")
    except MonitorBenchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if results.interrupted and not report:
        raise typer.Exit(130)
    raise typer.Exit(1 if missed(results) else 0)
