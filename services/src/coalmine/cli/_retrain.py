"""`coalmine retrain`: start the pipeline by hand, see what asked for it, compile it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from coalmine.cli import _retrain_cluster as cluster
from coalmine.cli import _retrain_show as show
from coalmine.cli._client import StateOption, find_running, request
from coalmine.cli._errors import CommandError

__all__ = ["app"]

app = typer.Typer(
    help="Start a training run on a running stack, see what asked for runs and what came of it.",
    invoke_without_command=True,
    epilog=(
        "Examples:  coalmine retrain --reason 'new labels'  |  coalmine retrain history  |  "
        "coalmine retrain status  |  "
        "coalmine retrain --compile pipeline.yaml --file coalmine.yaml  |  "
        "coalmine retrain --manifests build/  |  "
        "coalmine retrain --submit http://kfp.example:8888 --wait 3600 --set champion=3"
    ),
)

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for a program")]
_FATES = ("accepted", "merged", "suppressed")
_SOURCES = ("alert", "schedule", "cli", "http", "start")


@app.callback()
def retrain(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why, for the record")] = "asked for by hand",
    compile_to: Annotated[
        Path | None,
        typer.Option("--compile", help="Write the pipeline as Kubeflow Pipelines YAML instead"),
    ] = None,
    manifests: Annotated[
        Path | None,
        typer.Option(help="Write into DIR: the pipeline, Katib Experiments and TrainJobs"),
    ] = None,
    submit: Annotated[
        str | None, typer.Option(help="Run the pipeline on the Kubeflow Pipelines API at this URL")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --submit: a parameter of the pipeline, NAME=VALUE"),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="With --submit: seconds to wait for the end (0: none)")
    ] = 0.0,
    file: Annotated[
        Path, typer.Option(help="With --compile, --manifests, --submit: the model service file")
    ] = Path("coalmine.yaml"),
    state: StateOption = None,
) -> None:
    """Start a training run now; it counts as one of the day, but waits for no cooldown."""
    if context.invoked_subcommand is not None:
        return
    if compile_to is not None:
        cluster.compile_to(compile_to, file=file)
    if manifests is not None:
        cluster.write_manifests(manifests, file=file)
    if submit is not None:
        cluster.submit(submit, file=file, reason=reason, given=given or (), wait=wait)
    if (compile_to, manifests, submit) != (None, None, None):
        return
    body = {"reason": reason, "actor": getpass.getuser(), "source": "cli"}
    answer = request(find_running(state), "retrainer", "/v1/runs", method="POST", body=body)
    typer.echo(f"run {answer['id']}; see: coalmine retrain history")


@app.command(
    epilog="Examples:  coalmine retrain history  |  "
    "coalmine retrain history --fate suppressed --limit 20 --json"
)
def history(
    fate: Annotated[str | None, typer.Option(help=f"Only: {', '.join(_FATES)}")] = None,
    source: Annotated[str | None, typer.Option(help=f"Only: {', '.join(_SOURCES)}")] = None,
    run: Annotated[str | None, typer.Option(help="Only what led to this run")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many")] = 50,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """List what asked for a run, newest first: its fate, the run it led to, and how that ended."""
    _one_of("--fate", fate, _FATES)
    _one_of("--source", source, _SOURCES)
    running = find_running(state)
    given = {"fate": fate, "source": source, "run": run, "limit": limit}
    params = {name: value for name, value in given.items() if value is not None}
    triggers = request(running, "retrainer", "/v1/triggers", params=params)["triggers"]
    runs = {run["id"]: run for run in request(running, "retrainer", "/v1/runs")["runs"]}
    show.history([{**t, "outcome": show.outcome(runs.get(t["run"]))} for t in triggers], as_json)


@app.command(epilog="Example:  coalmine retrain runs --json")
def runs(as_json: JsonOption = False, state: StateOption = None) -> None:
    """List the training runs, newest first."""
    found = request(find_running(state), "retrainer", "/v1/runs")["runs"]
    show.runs(sorted(found, key=lambda run: run["started"] or 0.0, reverse=True), as_json)


@app.command(epilog="Example:  coalmine retrain status")
def status(as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show what runs, and what stands in the way of the next run: breaker, back-off, budget."""
    show.status(request(find_running(state), "retrainer", "/v1/status"), as_json)


@app.command(epilog="Example:  coalmine retrain reset --reason 'the label export is mended'")
def reset(
    reason: Annotated[str, typer.Option(help="What was mended, for the record")],
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Let alerts and the schedule start runs again: forgive the failures and rejections so far."""
    body: dict[str, Any] = {"reason": reason, "actor": getpass.getuser()}
    answer = request(find_running(state), "retrainer", "/v1/reset", method="POST", body=body)
    show.status(answer, as_json)


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise CommandError(f"{option} {value}: allowed are {', '.join(allowed)}")
