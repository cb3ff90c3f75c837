"""`coalmine up` and `coalmine status`: the local stack, and how it stands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coalmine.cli._client import StateOption, find_running, request
from coalmine.cli._errors import CommandError

if TYPE_CHECKING:
    from rich.table import Table

    from coalmine.stack import Part, Running, Stack

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example:  coalmine up coalmine.yaml --port 9080 --state /var/lib/ev")(up)
    app.command(epilog="Example:  coalmine status --state .coalmine/ev-battery")(status)


def up(
    file: Annotated[Path, typer.Argument(help="The model service file", metavar="FILE")],
    port: Annotated[
        int, typer.Option(help="Port of the gateway, first of ten in a row", min=1, max=65526)
    ] = 8080,
    state: Annotated[
        Path | None,
        typer.Option(
            help="State directory", show_default=".coalmine/NAME", envvar="COALMINE_STATE"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Real telemetry to train the first model with", exists=True)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training")] = 0,
) -> None:
    """Run the whole loop for one model service on this machine, until Ctrl-C.

    State lives in one directory: `up` again continues from it.
    """
    import asyncio

    from coalmine.stack import AlreadyRunningError, Stack

    stack = Stack(file, state=state, port=port, telemetry=data, seed=seed)
    try:
        asyncio.run(_run(stack))
    except AlreadyRunningError as error:
        _print(_parts_table(error.running.parts, title=f"{error.running.service}: already running"))
        raise CommandError(f"{error}; stop it with: kill {error.running.pid}") from error


async def _run(stack: Stack) -> None:
    import asyncio
    import signal

    this = asyncio.current_task()
    assert this is not None
    asked: list[int] = []

    def stop(number: int) -> None:
        if not asked:  # a second Ctrl-C must not disturb the stopping, which takes seconds
            asked.append(number)
            this.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        async with stack:
            _print(_up_table(stack))
            typer.echo(f"mlflow ui --backend-store-uri sqlite:///{_mlflow_file(stack)}")
            typer.echo("Ctrl-C stops it; coalmine status shows how it goes.")
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not asked:
            raise


def _up_table(stack: Stack) -> Table:
    table = _table(f"{stack.service.name} on {stack.state.root}", ("part", "where", "what"))
    rows: list[tuple[str, str]] = [
        ("gateway", "Envoy: HTTP/1.1, HTTP/2 and gRPC on one port"),
        *((name, "control app") for name in stack.services),
        *((arm.value, "model server, while the arm is in use") for arm in stack.ports.arms),
        ("admin", "Envoy's admin port"),
    ]
    if not stack.embedded_alerts:
        rows += [("prometheus", "metrics and rules"), ("alertmanager", "alerts")]
    if stack.service.monitors.alibi:
        rows.append(("alibi", "monitors of alibi-detect"))
    for name, what in rows:
        table.add_row(name, stack.endpoints[name], what)
    table.add_row("MLflow", f"sqlite:///{_mlflow_file(stack)}", "runs and versions, embedded")
    table.add_row("logs", str(stack.state.logs.absolute()), "a file for each part")
    return table


def _mlflow_file(stack: Stack) -> Path:
    return (stack.state.root / "mlflow.db").absolute()


def status(state: StateOption = None) -> None:
    """Show what runs and how the loop stands: weights, rollout, incidents, retraining."""
    running = find_running(state)
    _print(_parts_table(running.parts, title=f"{running.service}, pid {running.pid}"))
    table = _table("the loop", ("", ""))
    for name, value in _loop(running):
        table.add_row(name, value)
    _print(table)


def _loop(running: Running) -> Iterable[tuple[str, str]]:
    yield "traffic", _ask(running, "rollout", "/v1/weights", _weights)
    yield "rollout", _ask(running, "rollout", "/v1/rollouts", _last_rollout)
    for monitor in ("quality", "performance", "drift"):
        yield monitor, _ask(running, monitor, "/v1/incidents?open=true", _incidents)
    if any(part.name == "alibi" for part in running.parts):
        yield "alibi", _ask(running, "alibi", "/v1/incidents?open=true", _incidents)
    if "retrainer" in running.services:
        yield "retraining", _ask(running, "retrainer", "/v1/runs", _last_run)
    yield "records", _ask(running, "collector", "/v1/records/stats", _records)


def _ask(running: Running, service: str, path: str, tell: Callable[[Any], str]) -> str:
    try:
        return tell(request(running, service, path))
    except CommandError as error:
        return str(error)


def _weights(answer: Any) -> str:
    shares = [f"{arm} {weight} %" for arm, weight in answer["weights"].items()]
    if answer.get("mirror"):
        shares.append("mirrored to shadow")
    return ", ".join(shares) or "no model is deployed yet"


def _last_rollout(answer: Any) -> str:
    rollouts = answer["rollouts"]
    if not rollouts:
        return "none yet"
    last = max(rollouts, key=lambda rollout: rollout["started"] or 0.0)
    return f"{last['id']}: version {last['version']}, {last['state']}"


def _incidents(answer: Any) -> str:
    found = [incident["summary"] for incident in answer["incidents"]]
    return "; ".join(found) or "no incident open"


def _last_run(answer: Any) -> str:
    runs = answer["runs"]
    if not runs:
        return "none yet"
    last = max(runs, key=lambda run: run["started"] or 0.0)
    return f"{last['id']}: {last['outcome'] or 'running'} ({last['reason']})"


def _records(answer: Any) -> str:
    return f"{answer['rows']} rows, {answer['labels']} labels"


def _parts_table(parts: Iterable[Part], *, title: str) -> Table:
    table = _table(title, ("part", "pid", "where", "restarts", "what"))
    for part in parts:
        pid = "restarting" if part.pid is None else str(part.pid)
        table.add_row(part.name, pid, part.url, str(part.restarts), part.note)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    # What is not a terminal gets whole lines, to be searched.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
