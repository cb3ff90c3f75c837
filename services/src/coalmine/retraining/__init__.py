"""Retraining: from an alert to a registered model that the rollout can try.

`create_app` is the retrainer: it takes Alertmanager's webhook, decides by policy whether an alert
starts a run, runs the pipeline of the service file in a child process and offers the registered
version to the rollout. `MlflowRegistry` keeps the versions and their lineage.
`coalmine.retraining.learning` is what an application's steps are made of; the rest of this list is
for steps and for the command line.

The errors are drawn in `coalmine.retraining._errors`. Importing this package imports neither MLflow
nor Kubeflow nor FastAPI: they take seconds, and a step seldom needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.retraining._datasets import (
    copy_stored,
    describe_training_set,
    difference,
    ensure_stored,
    find_training_set,
    list_training_sets,
    recreate,
)
from coalmine.retraining._errors import (
    DataInvalid,
    DatasetChanged,
    DatasetMissing,
    DigestMismatch,
    ModelInvalid,
    NotEnoughData,
    RegistryError,
    RetrainingError,
    RunRefused,
    UnknownRun,
    UnknownVersion,
    WebhookInvalid,
)
from coalmine.retraining._events import emit_event, read_events_of_run, step
from coalmine.retraining._files import file_digest
from coalmine.retraining._kfp import compile_pipeline
from coalmine.retraining._lineage import Lineage
from coalmine.retraining._manifests import manifests, write_manifests
from coalmine.retraining._mlflow import load_mlflow
from coalmine.retraining._notify import Notice, notify
from coalmine.retraining._parameters import RunParameters
from coalmine.retraining._placement import Needs, parallelism, place
from coalmine.retraining._recent import Window, recent_rows
from coalmine.retraining._registry import (
    MlflowRegistry,
    RegisteredVersion,
    local_registry,
    register_directory,
)
from coalmine.retraining._submit import Submitted, cluster_parameters, submit, wait_for

if TYPE_CHECKING:
    from fastapi import FastAPI

    from coalmine.spec import ServiceSpec

__all__ = [
    "DataInvalid",
    "DatasetChanged",
    "DatasetMissing",
    "DigestMismatch",
    "Lineage",
    "MlflowRegistry",
    "ModelInvalid",
    "Needs",
    "NotEnoughData",
    "Notice",
    "RegisteredVersion",
    "RegistryError",
    "RetrainingError",
    "RunParameters",
    "RunRefused",
    "Submitted",
    "UnknownRun",
    "UnknownVersion",
    "WebhookInvalid",
    "Window",
    "cluster_parameters",
    "compile_pipeline",
    "copy_stored",
    "create_app",
    "describe_training_set",
    "difference",
    "emit_event",
    "ensure_stored",
    "file_digest",
    "find_training_set",
    "list_training_sets",
    "load_mlflow",
    "local_registry",
    "manifests",
    "notify",
    "parallelism",
    "place",
    "read_events_of_run",
    "recent_rows",
    "recreate",
    "register_directory",
    "step",
    "submit",
    "wait_for",
    "write_manifests",
]


def create_app(
    service: ServiceSpec,
    *,
    state: Path,
    log_uri: str,
    quality_url: str,
    rollout_url: str,
    telemetry: Path | None = None,
    seed: int = 0,
    clock: Clock = SYSTEM_CLOCK,
) -> FastAPI:
    """The retrainer of a service, with its state under `state`.

    `POST /v1/alerts` (Alertmanager's webhook), `POST /v1/runs`, `GET /v1/runs[/{id}]`, `GET
    /v1/triggers`, `GET /v1/status`, `POST /v1/reset`, `GET /healthz`, `GET /metrics`.
    `quality_url` and `rollout_url` are the base URLs of the data-quality monitor and of the rollout
    controller. A service without a champion is trained for at once, from `telemetry` (a file) or
    from the simulator with `seed`.
    """
    from coalmine.retraining import _app  # FastAPI is only for those who run a retrainer

    addresses = _app.Addresses(
        state=state,
        log_uri=log_uri,
        quality_url=quality_url,
        rollout_url=rollout_url,
        telemetry=telemetry,
        seed=seed,
    )
    return _app.create_app(service, addresses=addresses, clock=clock)
