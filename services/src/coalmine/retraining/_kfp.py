"""The two ways to run a pipeline that is written in the Kubeflow Pipelines language.

Locally, through `kfp.local`, each step in a process of its own of the same Python; or compiled to
YAML, for a cluster. What `kfp.local` 2.17.0 ignores (timeouts, secrets) is the job of the child
process that this runs in (`coalmine.retraining.run`); what it gets wrong is avoided in how
pipelines are written (docs/retraining.md).
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalmine.retraining._errors import RetrainingError
from coalmine.retraining._parameters import RunParameters
from coalmine.retraining._placement import on_cluster

if TYPE_CHECKING:
    from coalmine.spec import PipelineClusterSpec


def load_pipeline(path: str) -> Any:
    """The pipeline at `module:object`."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RetrainingError(f"retraining.pipeline: cannot load {path!r}: {error}") from error


def compile_pipeline(
    file: Path, *, pipeline: str, cluster: PipelineClusterSpec | None = None
) -> None:
    """Write the pipeline at `module:object` as YAML that a Kubeflow Pipelines server takes.

    Its steps are placed as the service file's `retraining.cluster` says, if it has one.
    """
    from kfp import compiler, dsl

    known = load_pipeline(pipeline)
    try:
        with on_cluster(
            cluster
        ):  # made again, since what it says of its steps is said in the making
            made = dsl.pipeline(name=known.name, description=known.description)(known.pipeline_func)
    except AttributeError as error:
        raise RetrainingError(
            f"retraining.pipeline: {pipeline!r} is not a @dsl.pipeline of Kubeflow Pipelines"
        ) from error
    scratch = file.with_name(f".{file.name}.{os.getpid()}.yaml")
    try:
        compiler.Compiler().compile(made, package_path=str(scratch))
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def run_locally(pipeline: Any, parameters: RunParameters, *, directory: Path) -> None:
    """Run a pipeline to its end on this machine; RuntimeError names the step that failed.

    `directory` takes the artifacts of all steps.
    """
    from kfp import local

    arguments = parameters.arguments(pipeline)
    broken = [text for text in (str(directory), *map(str, arguments.values())) if "python3" in text]
    if broken:
        # kfp.local replaces this word in every argument by the interpreter's path.
        raise RetrainingError(f"{broken[0]!r}: a path or parameter must not contain 'python3'")
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(directory / "artifacts"),
        # It is deleted after the run, whatever it held: it must be nobody's but ours.
        workspace_root=str(directory / "workspace"),
        raise_on_error=True,
    )
    pipeline(**arguments)
