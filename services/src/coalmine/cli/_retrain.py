"""`coalmine retrain`: start the pipeline by hand, list its runs, or compile it for a cluster."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from coalmine.cli._client import StateOption, find_running, request
from coalmine.cli._errors import CommandError

__all__ = ["app"]

app = typer.Typer(
    help="Start a training run on a running stack, list the runs, or compile the pipeline.",
    invoke_without_command=True,
    epilog=(
        "Examples:  coalmine retrain --reason 'new labels'  |  coalmine retrain history  |  "
        "coalmine retrain --compile pipeline.yaml --file coalmine.yaml"
    ),
)


@app.callback()
def retrain(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why, for the record")] = "asked for by hand",
    compile_to: Annotated[
        Path | None,
        typer.Option("--compile", help="Write the pipeline as Kubeflow Pipelines YAML instead"),
    ] = None,
    file: Annotated[Path, typer.Option(help="With --compile: the model service file")] = Path(
        "coalmine.yaml"
    ),
    state: StateOption = None,
) -> None:
    """Start a training run now; it is counted, but waits for no cooldown."""
    if context.invoked_subcommand is not None:
        return
    if compile_to is not None:
        _compile(file, compile_to)
        return
    body = {"reason": reason, "actor": getpass.getuser()}
    answer = request(find_running(state), "retrainer", "/v1/runs", method="POST", body=body)
    typer.echo(f"run {answer['id']}; see: coalmine retrain history")


@app.command(epilog="Example:  coalmine retrain history")
def history(state: StateOption = None) -> None:
    """List the training runs, newest first."""
    runs = request(find_running(state), "retrainer", "/v1/runs")["runs"]
    if not runs:
        typer.echo("no run yet")
    for run in sorted(runs, key=lambda run: run["started"] or 0.0, reverse=True):
        version = f"  version {run['version']}" if run.get("version") else ""
        typer.echo(f"{run['id']}  {run['outcome'] or 'running'}{version}  {run['reason']}")


def _compile(file: Path, target: Path) -> None:
    from coalmine.retraining import compile_pipeline
    from coalmine.spec import load_service

    service = load_service(file)
    if service.retraining is None:
        raise CommandError(f"{file}: retraining: is missing; add `retraining: {{pipeline: ...}}`")
    if target.suffix not in (".yaml", ".yml"):
        raise CommandError(f"--compile {target}: Kubeflow Pipelines takes a .yaml file")
    compile_pipeline(target, pipeline=service.retraining.pipeline)
    typer.echo(f"written: {target}")
