"""`coalmine reference build`: what the monitors of a model version compare with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from coalmine_monitors.reference import ReferenceSummary

__all__ = ["app"]

app = typer.Typer(
    help="References: the rows of training or validation data that the monitors compare with.",
    no_args_is_help=True,
    epilog="Example:  coalmine reference build val.parquet --model models/3 --label-column fault",
)


@app.callback()
def _group() -> None:
    """One command so far; a group, so that its name stays when others come."""


@app.command(
    epilog=(
        "Examples:  coalmine reference build train.csv --model my-model --label-column class  |  "
        "coalmine reference build val.parquet --model models:/ev-battery/3 "
        "--state .coalmine/ev-battery"
    )
)
def build(
    table: Annotated[
        Path,
        typer.Argument(
            help="Parquet, CSV with a header, or Arrow IPC; rows in the order of time",
            exists=True,
            dir_okay=False,
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Model directory, or models:/NAME/VERSION or models:/NAME@ALIAS")
    ],
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of the true class", show_default="true_label, if there"),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(help="Column that orders the rows", show_default="time, if there"),
    ] = None,
    service: Annotated[
        Path | None,
        typer.Option(help="Service file whose monitors' settings count", exists=True),
    ] = None,
    window_rows: Annotated[
        int | None,
        typer.Option(help="Rows of a window", show_default="of --service, or 500", min=50),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write it here", show_default="into the model directory or the registry"),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(envvar="COALMINE_STATE", help="State directory whose registry has models:/"),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow whose registry has models:/"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for a program")] = False,
) -> None:
    """Build the reference of a model version from a table, and say what it holds.

    The table has a column for every feature of model.yaml. Predictions are taken from columns of
    their names, or made by the network. Building it again replaces it.
    """
    import json
    from dataclasses import asdict

    from coalmine.cli._reference_models import opened, read_table
    from coalmine.modeldir import load_card
    from coalmine_monitors.drift import build_reference
    from coalmine_monitors.reference import reference_rows, summarise

    drift = _settings(service)
    rows_of_a_window = window_rows or drift.window_rows
    source = read_table(table)
    label = label_column or _if_there("true_label", source)
    time = time_column or _if_there("time", source)
    with opened(model, state=state, tracking_uri=tracking_uri) as place:
        card = load_card(place.directory)
        rows = reference_rows(
            source, card, predict=place.predict, label_column=label, time_column=time
        )
        columns = (*card.feature_columns(), *card.output_columns())
        # Judged as the drift monitor will judge it: better now than when it is deployed.
        build_reference(rows, columns, window_rows=rows_of_a_window, min_effect=drift.min_effect)
        summary = summarise(rows, columns, window_rows=rows_of_a_window)
        written = place.store(rows, output=output)
    if as_json:
        typer.echo(json.dumps({"written": written, **asdict(summary)}, indent=2))
        return
    _show(summary)
    typer.echo(f"written: {written}")


def _settings(service: Path | None) -> Any:
    from coalmine.spec import DriftSpec, load_service

    return DriftSpec() if service is None else load_service(service).monitors.drift


def _if_there(name: str, source: Any) -> str | None:
    return name if name in source.column_names else None


def _show(summary: ReferenceSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("column", "left"), ("type", "left"), ("missing", "right"), ("distinct", "right"),
        ("1 %", "right"), ("median", "right"), ("99 %", "right"), ("alike rows", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for each in summary.features:
        numbers = ["" if x is None else f"{x:.4g}" for x in (each.low, each.median, each.high)]
        table.add_row(
            each.name, each.type, f"{each.missing:.1%}", f"{each.distinct:,}", *numbers,
            f"{each.alike_rows:.0f}",
        )  # fmt: skip
    Console(highlight=False, markup=False).print(table)
    typer.echo(
        f"{summary.rows:,} rows, {summary.windows} windows of {summary.window_rows}, "
        f"{summary.labelled:,} rows with a true label"
    )
    if summary.span_seconds is None:
        typer.echo("no times: whether it spans a season is not known (--time-column NAME)")
    else:
        seen = [name for name, known in summary.seasons.items() if known]
        typer.echo(
            f"{summary.span_seconds / 86_400:.2f} days; seasons seen twice: "
            f"{', '.join(seen) or 'none, so a daily swing will look like drift'}"
        )
    typer.echo(f"rows stay alike for about {summary.block_rows:.0f} rows")
    if summary.block_rows > summary.window_rows:
        typer.echo(
            f"warning: that is longer than a window of {summary.window_rows}: give windows more "
            "rows (monitors.drift.window_rows), or alarms will be late",
            err=True,
        )
