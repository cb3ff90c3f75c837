"""`coalmine rollout ...`: offer a version, watch, pause, decide by hand."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from coalmine.cli._client import StateOption, find_running, find_stack, request
from coalmine.cli._errors import CommandError, NoAnswer
from coalmine.cli._show import show

__all__ = ["app"]

app = typer.Typer(
    help="Offer a model version, watch it being judged, pause or decide by hand.",
    no_args_is_help=True,
    epilog="Examples:  coalmine rollout start 4  |  coalmine rollout abort --reason 'wrong data'",
)

_FINAL = ("promoted", "rolled_back", "aborted")
IdArgument = Annotated[
    str | None, typer.Argument(help="The rollout", show_default="the newest", metavar="ID")
]
RunningArgument = Annotated[
    str | None, typer.Argument(help="The rollout", show_default="the one that runs", metavar="ID")
]
ReasonOption = Annotated[str, typer.Option(help="Why, for the ledger")]


@app.command(epilog="Example:  coalmine rollout start 4 --reason 'trained on July'")
def start(
    version: Annotated[str, typer.Argument(help="Model version in the registry")],
    shadow: Annotated[
        bool, typer.Option(help="Judge it on mirrored requests before it answers any")
    ] = True,
    reason: ReasonOption = "asked for on the command line",
    state: StateOption = None,
) -> None:
    """Offer a version; evidence then decides whether it is promoted or rolled back."""
    body = {"version": version, "shadow": shadow, "reason": reason, "actor": getpass.getuser()}
    answer = request(find_running(state), "rollout", "/v1/rollouts", method="POST", body=body)
    typer.echo(f"rollout {answer['id']} of version {version}; see: coalmine rollout status")


@app.command(epilog="Example:  coalmine rollout status")
def status(rollout: IdArgument = None, state: StateOption = None) -> None:
    """Show one rollout: state, verdict, weights, evidence, and its ledger."""
    running = find_running(state)
    key = rollout or _newest(running)["id"]
    show(request(running, "rollout", _path(key)))


@app.command(epilog="Example:  coalmine rollout history")
def history(state: StateOption = None) -> None:
    """List all rollouts, newest first: when, which version, what came of it and why."""
    from coalmine.cli._explain import listed

    running = find_running(state)
    _newest(running)
    for rollout in _all(running):
        typer.echo(listed(rollout))


@app.command(epilog="Example:  coalmine rollout explain r2")
def explain(rollout: IdArgument = None, state: StateOption = None) -> None:
    """Tell what happened to a rollout, step by step, on what evidence, and what it waits for."""
    from coalmine.cli._explain import explained

    running = find_running(state)
    key = rollout or _newest(running)["id"]
    typer.echo(explained(request(running, "rollout", _path(key))))


@app.command(
    epilog="Examples:  coalmine rollout replay  |  "
    "coalmine rollout replay r2 --database backup/rollout.db"
)
def replay(
    rollout: IdArgument = None,
    database: Annotated[
        Path | None,
        typer.Option(help="The controller's database", show_default="that of the state directory"),
    ] = None,
    state: StateOption = None,
) -> None:
    """Decide again from the ledger alone, offline; exits 1 if any verdict comes out differently."""
    from coalmine.cli._explain import compared
    from coalmine.rollout import newest_of
    from coalmine.rollout import replay as replayed

    file = database or _database(state)
    key = rollout or newest_of(file)
    if key is None:
        raise CommandError(f"{file}: no rollout is in it yet")
    verdicts = replayed(file, key)
    typer.echo(compared(key, verdicts))
    if not all(verdict.same for verdict in verdicts):
        raise typer.Exit(1)


@app.command(epilog="Example:  coalmine rollout pause")
def pause(
    rollout: RunningArgument = None, reason: ReasonOption = "", state: StateOption = None
) -> None:
    """Keep the weights as they are until resumed; a regression still rolls back."""
    _act("pause", rollout, reason=reason, state=state)


@app.command(epilog="Example:  coalmine rollout resume")
def resume(
    rollout: RunningArgument = None, reason: ReasonOption = "", state: StateOption = None
) -> None:
    """Go on where it was paused."""
    _act("resume", rollout, reason=reason, state=state)


@app.command(epilog="Example:  coalmine rollout promote --reason 'checked by hand'")
def promote(
    rollout: RunningArgument = None, reason: ReasonOption = "", state: StateOption = None
) -> None:
    """Promote now, whatever the evidence; the ledger says who did."""
    _act("promote", rollout, reason=reason, state=state)


@app.command(epilog="Example:  coalmine rollout abort --reason 'wrong data'")
def abort(
    rollout: RunningArgument = None,
    reason: ReasonOption = "",
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help="Write the gateway from here, where the control process hangs or is gone; takes "
            "up to half a minute if it still seems to live",
        ),
    ] = False,
    state: StateOption = None,
) -> None:
    """Send all requests back to stable and end the rollout."""
    if direct:
        _abort_directly(reason, state=state)
        return
    try:
        _act("abort", rollout, reason=reason, state=state)
    except NoAnswer as error:
        without = "or abort without it: coalmine rollout abort --direct"
        raise CommandError(f"{error}, {without}") from error


def _abort_directly(reason: str, *, state: Path | None) -> None:
    import asyncio

    from coalmine.stack import abort_directly

    root, _ = find_stack(state)
    why = reason or "asked for on the command line"
    id = asyncio.run(abort_directly(root, actor=getpass.getuser(), reason=why))
    typer.echo(f"rollout {id}: stable answers all requests")


def _database(state: Path | None) -> Path:
    """The database below a state directory; the stack need not run."""
    from coalmine.stack import StateDirectory

    found = [state] if state is not None else sorted(Path(".coalmine").glob("*/"))
    databases = [StateDirectory(each).database("rollout") for each in found]
    existing = [database for database in databases if database.is_file()]
    if len(existing) == 1:
        return existing[0]
    if existing:
        names = ", ".join(str(database) for database in existing)
        raise CommandError(f"several databases ({names}): choose one with --state or --database")
    where = "below .coalmine" if state is None else f"in {state}"
    raise CommandError(f"no rollout database {where}; name one with --database FILE")


def _act(action: str, rollout: str | None, *, reason: str, state: Any) -> None:
    running = find_running(state)
    key = rollout or _running_one(running)["id"]
    body = {"reason": reason or "asked for on the command line", "actor": getpass.getuser()}
    path = f"{_path(key)}/{action}"
    answer = request(running, "rollout", path, method="POST", body=body)
    typer.echo(f"rollout {key}: {answer['state']}, now at {answer['stage']}")


def _path(rollout: str) -> str:
    """Of the HTTP API; what is no id must not lead elsewhere."""
    return f"/v1/rollouts/{quote(rollout, safe='')}"


def _all(running: Any) -> list[dict[str, Any]]:
    rollouts: list[dict[str, Any]] = request(running, "rollout", "/v1/rollouts")["rollouts"]
    return sorted(rollouts, key=lambda rollout: rollout["started"] or 0.0, reverse=True)


def _newest(running: Any) -> dict[str, Any]:
    rollouts = _all(running)
    if not rollouts:
        raise CommandError("no rollout yet; start one with: coalmine rollout start VERSION")
    return rollouts[0]


def _running_one(running: Any) -> dict[str, Any]:
    for rollout in _all(running):
        if rollout["state"] not in _FINAL:
            return rollout
    raise CommandError("no rollout runs; see those of the past with: coalmine rollout history")
