"""`coalmine label`: what was true, sent after what was predicted."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from coalmine.cli._client import StateOption, find_running, request
from coalmine.cli._errors import CommandError

__all__ = ["register"]

_BATCH = 1000


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example:  coalmine label workshop.csv --state .coalmine/ev-battery")(label)


def label(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a header, or JSON lines: request_id, label, and row and time if known",
            exists=True,
            dir_okay=False,
        ),
    ],
    state: StateOption = None,
) -> None:
    """Send delayed labels to the collector, which joins them to the records by request id.

    `label` is a class name or index, `row` the place in the request (0), `time` when it became
    known, in seconds since the epoch (now). Sending a file again does no harm.
    """
    running = find_running(state)
    counts: Counter[str] = Counter()
    labels = _labels(file)
    while batch := list(islice(labels, _BATCH)):
        answer = request(running, "collector", "/v1/labels", method="POST", body={"labels": batch})
        counts.update(answer)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    typer.echo(told or f"{file}: no labels in it")


def _labels(file: Path) -> Iterator[dict[str, Any]]:
    from coalmine.clock import SYSTEM_CLOCK

    now = SYSTEM_CLOCK.time()
    with file.open(encoding="utf-8", newline="") as lines:
        for line, entry in _entries(file, lines):
            try:
                yield {
                    "request_id": _text(entry["request_id"]),
                    "label": _text(entry["label"]),
                    "row": int(entry.get("row") or 0),
                    "time": float(entry.get("time") or now),
                }
            except (KeyError, TypeError, ValueError) as error:
                raise CommandError(
                    f"{file}:{line}: a label has `request_id` and `label`, and a whole number as "
                    f"`row` and seconds as `time` if known ({error!r})"
                ) from error


def _text(value: Any) -> str:
    if value is None or value == "":
        raise ValueError("an empty value")
    return str(value)


def _entries(file: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if file.suffix == ".csv":
        yield from enumerate(csv.DictReader(lines), start=2)
        return
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise CommandError(f"{file}:{number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise CommandError(f"{file}:{number}: a label is a JSON object")
        yield number, entry
