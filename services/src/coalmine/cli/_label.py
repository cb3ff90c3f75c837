"""`coalmine label`: what was true, sent after what was predicted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from coalmine.cli._client import StateOption, find_running, request
from coalmine.cli._errors import CommandError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog="Examples:  coalmine label workshop.csv  |  coalmine label truth.parquet --state DIR"
    )(label)


def label(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a header, JSON lines, JSON, Parquet or Arrow: request_id, label, and "
            "row and time if known",
            exists=True,
            dir_okay=False,
        ),
    ],
    state: StateOption = None,
) -> None:
    """Send delayed labels to the collector, which joins them to the records by request id.

    `label` is a class name or index, `row` the place in the request (0), `time` when it became
    known, in seconds since the epoch or ISO 8601 (now). Sending a file again does no harm; of a
    file with a mistake nothing is sent.
    """
    from rich.console import Console
    from rich.progress import Progress

    from coalmine.clock import SYSTEM_CLOCK
    from coalmine.records import MalformedLabelsError, check_labels, label_format, read_labels

    now = SYSTEM_CLOCK.time()
    counts: Counter[str] = Counter()
    try:
        format = label_format(file.suffix.lower())
        with file.open("rb") as content:
            total = check_labels(content, format, now=now)
            if not total:
                raise CommandError(
                    f"{file}: no labels in it; it needs a row for each, with `request_id` and "
                    "`label`: coalmine label --help",
                    status=2,
                )
            running = find_running(state)
            content.seek(0)
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task("labels", total=total)
                for piece in read_labels(content, format, now=now):
                    body = {"labels": [_sent(label) for label in piece]}
                    counts.update(
                        request(running, "collector", "/v1/labels", method="POST", body=body)
                    )
                    progress.advance(task, len(piece))
    except MalformedLabelsError as error:
        raise CommandError(f"{file}: {error}", status=2) from error
    typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()))


def _sent(label: Any) -> dict[str, Any]:
    names = ("request_id", "label", "row", "time")
    return {name: getattr(label, name) for name in names}
