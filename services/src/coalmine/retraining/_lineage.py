"""Where a model comes from, and how MLflow is told."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

#: MLflow's column for a data set's digest is this wide; the whole digest is in the version's tags.
_DIGEST_WIDTH = 36
_TAG_WIDTH = 5000


@cache
def git_commit() -> str:
    """The commit of this code: `COALMINE_GIT_COMMIT`, else what git says, else `unknown`."""
    given = os.environ.get("COALMINE_GIT_COMMIT")
    if given:
        return given
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


@cache
def installed() -> tuple[str, ...]:
    """The distributions of this environment, as `name==version`, sorted."""
    found = {
        f"{re.sub(r'[-_.]+', '-', dist.name).lower()}=={dist.version}"
        for dist in distributions()
        if dist.name
    }
    return (f"python=={platform.python_version()}", *sorted(found))


def environment_digest() -> str:
    """Of the environment that made a model: two with the same digest had the same libraries."""
    return "sha256:" + hashlib.sha256("\n".join(installed()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that is kept about the making of one model."""

    run: str
    """The pipeline run, as in the retrainer's own list."""

    reason: str
    decision: str
    parity: str
    reasons: tuple[str, ...] = ()
    """Of the decision."""

    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    training_data: str | None = None
    """`sha256:` digest of the training set."""

    data_source: str | None = None
    reports: Mapping[str, Path] = field(default_factory=dict)
    """Files kept with the run, by name: parity, evaluation, validation."""

    git_commit: str = field(default_factory=git_commit)
    environment: str = field(default_factory=environment_digest)
    """`sha256:` digest of what was installed; the list itself is kept with the run."""


def log_run(client: Any, *, experiment: str, lineage: Lineage, directory: Path) -> tuple[str, str]:
    """Write one finished MLflow run; its id and the URI of the model directory in it."""
    from mlflow.entities import Metric, Param, RunTag

    tags = {
        "coalmine.run": lineage.run,
        "coalmine.reason": lineage.reason,
        "coalmine.decision": lineage.decision,
        "coalmine.reasons": "; ".join(lineage.reasons)[:_TAG_WIDTH],
        "coalmine.environment": lineage.environment,
        "mlflow.source.git.commit": lineage.git_commit,
    }
    run = client.create_run(experiment, run_name=lineage.run)
    identifier = str(run.info.run_id)
    now = run.info.start_time
    client.log_batch(
        identifier,
        params=[Param(key, str(value)) for key, value in sorted(lineage.params.items())],
        metrics=[Metric(key, float(v), now, 0) for key, v in sorted(lineage.metrics.items())],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    if lineage.training_data is not None:
        client.log_inputs(identifier, datasets=[_dataset(lineage, lineage.training_data)])
    client.log_artifacts(identifier, str(directory), "model")
    for name, path in lineage.reports.items():
        client.log_artifact(identifier, str(path), f"reports/{name}")
    client.log_text(identifier, "\n".join(installed()) + "\n", "reports/environment.txt")
    client.set_terminated(identifier)
    return identifier, f"{run.info.artifact_uri}/model"


def _dataset(lineage: Lineage, digest: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name="training",
        digest=digest.removeprefix("sha256:")[:_DIGEST_WIDTH],
        source_type="local",
        source=lineage.data_source or digest,
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])
