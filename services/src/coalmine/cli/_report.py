"""`coalmine report`: one HTML file about a model's drift, quality and performance."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from coalmine.cli._client import request
from coalmine.cli._errors import CommandError

__all__ = ["register"]

_HOME = Path(".coalmine")
_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog=(
            "Examples:  coalmine report ev-battery --from 24h  |  coalmine report coalmine.yaml "
            "--from 2026-11-01 --to 2026-11-08T12:00Z --output week.html"
        )
    )(report)


def report(
    model: Annotated[
        str,
        typer.Argument(help="Name of the model service, or its service file"),
    ],
    since: Annotated[
        str | None, typer.Option("--from", help="Record time: ISO 8601 (UTC), or how long ago: 24h")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="The same; not included")] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the model", show_default="the stable one")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write")] = Path(
        "report.html"
    ),
    state: Annotated[
        Path | None,
        typer.Option(
            envvar="COALMINE_STATE",
            help="State directory of the stack",
            show_default=".coalmine/NAME",
        ),
    ] = None,
) -> None:
    """Write a drift report: features by their part in the drift, evidence, incidents, quality,
    realised and estimated performance.

    A running stack is asked. Of one that is down the state directory is read: give its service
    file then. The page loads nothing, and needs no scripts.
    """
    from coalmine.clock import SYSTEM_CLOCK
    from coalmine.records import open_log
    from coalmine.report import Ask, ReportError, collect, offline, render
    from coalmine.spec import load_service
    from coalmine.stack import NotRunningError, StateDirectory, read_running

    now = SYSTEM_CLOCK.time()
    span = {"since": _time(since, "--from", now=now), "until": _time(until, "--to", now=now)}
    if None not in span.values() and span["since"] >= span["until"]:  # type: ignore[operator]
        raise CommandError(f"--from {since} is not before --to {until}")
    service = load_service(Path(model)) if Path(model).suffix in (".yaml", ".yml") else None
    name = model if service is None else service.name
    root = StateDirectory(state or _HOME / name)
    if not root.database("records").exists():
        raise CommandError(f"{root.root}: no records of {name} in it (--state DIR says where)")
    with contextlib.closing(open_log(f"sqlite:///{root.database('records').absolute()}")) as log:
        ask: Ask
        try:
            running = read_running(root.root)
        except NotRunningError:
            if service is None:
                raise CommandError(
                    f"no stack runs on {root.root}: name its service file instead of {model!r}, "
                    "and its state is read"
                ) from None
            ask = offline(service, log=log, state=root.root, models=root.models)
        else:

            def ask(monitor: str, path: str, params: Mapping[str, Any]) -> Any:
                try:
                    return request(running, monitor, path, params=params)
                except CommandError as error:
                    raise ReportError(str(error)) from None

        facts = collect(
            name,
            ask=ask,
            log=log,
            models=root.models,
            clock=SYSTEM_CLOCK,
            archive=root.root / "archive",
            version=version,
            **span,
        )
    _write(output, render(facts))
    typer.echo(f"written: {output} ({len(facts.drift)} windows, {len(facts.incidents)} incidents)")
    for note in facts.notes:
        typer.echo(f"note: {note}", err=True)


def _time(text: str | None, option: str, *, now: float) -> float | None:
    if text is None:
        return None
    if match := _AGO.fullmatch(text):
        return now - float(match[1]) * _SECONDS[match[2]]
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds):
            return seconds
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text}: neither ISO 8601 (2026-11-21T19:00Z) nor a duration (24h)"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
