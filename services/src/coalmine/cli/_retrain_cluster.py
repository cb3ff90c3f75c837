"""`coalmine retrain` for a cluster: compile, write manifests, submit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coalmine.cli._errors import CommandError

if TYPE_CHECKING:
    from coalmine.spec import ServiceSpec

__all__ = ["compile_to", "submit", "write_manifests"]


def compile_to(target: Path, *, file: Path) -> None:
    """Write the pipeline as YAML."""
    from coalmine.retraining import compile_pipeline

    service = _service(file)
    assert service.retraining is not None
    if target.suffix not in (".yaml", ".yml"):
        raise CommandError(f"--compile {target}: Kubeflow Pipelines takes a .yaml file")
    retraining = service.retraining
    compile_pipeline(target, pipeline=retraining.pipeline, cluster=retraining.cluster)
    typer.echo(f"written: {target}")


def write_manifests(directory: Path, *, file: Path) -> None:
    """Write the pipeline, and a Katib Experiment and a TrainJob for each kind of model."""
    from coalmine.retraining import write_manifests

    written = write_manifests(_service(file), directory)
    compile_to(directory / "pipeline.yaml", file=file)
    for path in written:
        typer.echo(f"written: {path}")


def submit(endpoint: str, *, file: Path, reason: str, given: Sequence[str], wait: float) -> None:
    """Start a run on a cluster; with `wait`, stay until it has ended, at most so many seconds."""
    from coalmine.retraining import submit, wait_for

    pairs = dict(_pair(text) for text in given)
    found = submit(_service(file), endpoint=endpoint, reason=reason, given=pairs)
    how = "submitted" if found.created else f"is there already, {found.state}"
    typer.echo(f"run {found.run} ({found.name}): {how}")
    if not wait:
        return
    ended = wait_for(found, endpoint=endpoint, seconds=wait, tell=typer.echo, sleep=time.sleep)
    if ended.state != "SUCCEEDED":
        raise CommandError(f"run {ended.run}: {ended.state}: {ended.error or 'see its steps'}")


def _service(file: Path) -> ServiceSpec:
    from coalmine.spec import load_service

    service = load_service(file)
    if service.retraining is None:
        raise CommandError(f"{file}: retraining: is missing; add `retraining: {{pipeline: ...}}`")
    return service


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise CommandError(f"--set {text}: wanted NAME=VALUE")
    return name, value
