"""Commands about a service file, and single parts of a service in the foreground."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

FileArgument = Annotated[Path, typer.Argument(help="The model service file", metavar="FILE")]


class _Service(StrEnum):
    COLLECTOR = "collector"
    DRIFT = "drift"
    PERFORMANCE = "performance"
    QUALITY = "quality"
    ROLLOUT = "rollout"
    RETRAINER = "retrainer"
    NOTIFIER = "notifier"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example:  coalmine check coalmine.yaml")(check)
    app.command(epilog="Example:  coalmine schema > coalmine.schema.json")(schema)
    app.command(epilog="Example:  coalmine run collector coalmine.yaml --port 9000")(run)
    app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        add_help_option=False,
    )(serve)
    app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        add_help_option=False,
    )(transform)


def check(file: FileArgument) -> None:
    """Say whether a service file is right; if not, every mistake with its line and key."""
    from coalmine.spec import ServiceFileError, load_service

    try:
        service = load_service(file)
    except ServiceFileError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{file}: {service.name} is valid")


def schema() -> None:
    """Print the JSON schema of the service file, for editors."""
    import json

    from coalmine.spec import service_schema

    typer.echo(json.dumps(service_schema(), indent=2))


def run(
    service: Annotated[_Service, typer.Argument(help="The service to run")],
    file: FileArgument,
    port: Annotated[int, typer.Option(help="Port of this service", min=1, max=65535)] = 9000,
    stack_port: Annotated[
        int,
        typer.Option(
            help="First port of the stack whose other parts it works with", min=1, max=65526
        ),
    ] = 8080,
    state: Annotated[
        Path | None,
        typer.Option(
            help="State directory", show_default=".coalmine/NAME", envvar="COALMINE_STATE"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Real telemetry to train with (CSV or Parquet)", exists=True),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training")] = 0,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="rollout: act upon the cluster of the service file's `cluster` section",
        ),
    ] = False,
) -> None:
    """Run one control service alone, at the root of its own port.

    It finds the others at COALMINE_COLLECTOR_URL, COALMINE_PERFORMANCE_URL, COALMINE_QUALITY_URL,
    COALMINE_DRIFT_URL, COALMINE_ROLLOUT_URL and COALMINE_RETRAINER_URL, else in the local stack.
    """
    from coalmine.observability import configure_logging
    from coalmine.spec import load_service
    from coalmine.stack import Ports, StateDirectory, Surroundings, default_state
    from coalmine.stack.control import create_control, serve_app

    if cluster and service is not _Service.ROLLOUT:
        raise typer.BadParameter("belongs to the service `rollout`", param_hint="--cluster")
    spec = load_service(file)
    directory = StateDirectory(state or default_state(spec))
    directory.create()
    configure_logging()
    around = Surroundings(
        service=spec,
        state=directory,
        ports=Ports(stack_port),
        telemetry=data,
        seed=seed,
        cluster=cluster,
    )
    serve_app(create_control(around, [service.value], alone=True), port=port)


def serve(context: typer.Context) -> None:
    """Serve models on KServe's protocols (HTTP V1 and V2, gRPC V2), without the rest.

    Its options are those of the model server: coalmine serve --help.
    """
    # The server describes its own options, and a process of its own holds no command line.
    command = (sys.executable, "-m", "coalmine.serving", *context.args)
    os.execv(sys.executable, command)


def transform(context: typer.Context) -> None:
    """Serve a transformer alone, in front of a predictor, as KServe runs it.

    Its options, KServe's own among them: coalmine transform --help.
    """
    command = (sys.executable, "-m", "coalmine.serving._transformer_main", *context.args)
    os.execv(sys.executable, command)
