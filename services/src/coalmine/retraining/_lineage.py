"""Where a model comes from, and how MLflow is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

#: MLflow's column for a data set's digest is this wide; the whole digest is in the version's tags.
_DIGEST_WIDTH = 36


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


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that is kept about the making of one model."""

    run: str
    """The pipeline run, as in the retrainer's own list."""

    reason: str
    decision: str
    parity: str
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    training_data: str | None = None
    """`sha256:` digest of the training set."""

    data_source: str | None = None
    reports: Mapping[str, Path] = field(default_factory=dict)
    """Files kept with the run, by name: parity, evaluation, validation."""

    git_commit: str = field(default_factory=git_commit)


def log_run(client: Any, *, experiment: str, lineage: Lineage, directory: Path) -> tuple[str, str]:
    """Write one finished MLflow run; its id and the URI of the model directory in it."""
    from mlflow.entities import Metric, Param, RunTag

    tags = {
        "coalmine.run": lineage.run,
        "coalmine.reason": lineage.reason,
        "coalmine.decision": lineage.decision,
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
