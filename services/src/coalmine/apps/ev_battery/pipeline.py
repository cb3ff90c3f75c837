"""The training pipeline, in the Kubeflow Pipelines language.

Thin components call the installed `steps`; the image of a step needs this distribution and no more.
The branch is on the single string of `decide`, with an Else: conditions on anything else fail
silently in one runner or another (docs/retraining.md).
"""

# Kubeflow reads the annotations as objects: no `from __future__ import annotations` here.

from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes

IMAGE = "coalmine/retraining-python:0.1.0"
#: A Kubernetes secret with the keys below. On a laptop the retrainer sets the variables itself.
SECRET = "coalmine-retraining"
_SECRET_KEYS = {"notify-url": "COALMINE_NOTIFY_URL", "mlflow-token": "MLFLOW_TRACKING_TOKEN"}

_component: Callable[[Callable[..., Any]], Any] = dsl.component(
    base_image=IMAGE, install_kfp_package=False
)
_pipeline: Callable[[Callable[..., None]], Any] = dsl.pipeline(
    name="ev-battery-retraining",
    description="Train, judge and register the fault classifier of the battery fleet.",
)


@_component
def ingest_telemetry(
    kind: str,
    telemetry: str,
    seed: int,
    window_rows: int,
    log_uri: str,
    champion: str,
    since: float,
    until: float,
    ingested: dsl.Output[dsl.Dataset],
) -> None:
    """History and the present: from the record log, from a file, or simulated."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    out = Path(ingested.path)
    if kind == "retrain":
        present = steps.Present(log_uri, version=champion, since=since, until=until)
        steps.ingest_records(out, present=present)
    elif telemetry:
        steps.ingest_file(out, telemetry=Path(telemetry))
    else:
        steps.ingest_simulated(out, seed=seed, window_rows=window_rows)


@_component
def validate_data(ingested: dsl.Input[dsl.Dataset], report: dsl.Output[dsl.Markdown]) -> None:
    """Fail, with a readable report, if the data cannot be learned from."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.validate_data(Path(ingested.path), Path(report.path))


@_component
def generate_features(
    ingested: dsl.Input[dsl.Dataset],
    model_name: str,
    champion: str,
    models: str,
    tracking_uri: str,
    artifacts: str,
    data: str,
    features: dsl.Output[dsl.Dataset],
) -> None:
    """The table to learn from, split by time and upload, stored under its content."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.generate_features(
        Path(ingested.path),
        Path(features.path),
        champion=steps.Champion(champion, models, tracking_uri, artifacts, model_name),
        data=Path(data),
    )


@_component
def train_fault_classifier(
    features: dsl.Input[dsl.Dataset],
    seed: int,
    trials: int,
    tuning_seconds: float,
    trained: dsl.Output[dsl.Model],
) -> None:
    """LightGBM, tuned by Optuna within both budgets, exported to ONNX."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.train_fault_classifier(
        Path(features.path),
        Path(trained.path),
        seed=seed,
        trials=trials,
        tuning_seconds=tuning_seconds,
    )


@_component
def evaluate(
    features: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    model_name: str,
    champion: str,
    models: str,
    tracking_uri: str,
    artifacts: str,
    candidate: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Parity of the export, missing values included; then accuracy, in pairs with the champion."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.evaluate(
        Path(features.path),
        Path(trained.path),
        champion=steps.Champion(champion, models, tracking_uri, artifacts, model_name),
        candidate=Path(candidate.path),
        report=Path(report.path),
    )


@_component
def decide(report: dsl.Input[dsl.Artifact]) -> str:
    """`promote` or `reject`."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    return steps.decide(Path(report.path))


@_component
def set_up_drift_monitoring(
    features: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Model],
    window_rows: int,
    model: dsl.Output[dsl.Model],
) -> None:
    """The reference that the new version's monitors compare with, inside its directory."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.set_up_drift_monitoring(
        Path(features.path),
        Path(trained.path),
        candidate=Path(candidate.path),
        window_rows=window_rows,
        out=Path(model.path),
    )


@_component
def register_model(
    model: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Markdown],
    run_id: str,
    reason: str,
    model_name: str,
    champion: str,
    models: str,
    tracking_uri: str,
    artifacts: str,
    data: str,
) -> None:
    """A new version in MLflow with all that is known of its making, as `challenger`."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.register_model(
        Path(model.path),
        story=steps.Story(
            run_id=run_id,
            reason=reason,
            features=Path(features.path),
            trained=Path(trained.path),
            report=Path(report.path),
            validation=Path(validation.path),
            data=Path(data),
        ),
        champion=steps.Champion(champion, models, tracking_uri, artifacts, model_name),
    )


@_component
def record_rejection(
    candidate: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    trained: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Markdown],
    run_id: str,
    reason: str,
    model_name: str,
    champion: str,
    models: str,
    tracking_uri: str,
    artifacts: str,
    data: str,
) -> None:
    """What was tried and why it was rejected, in MLflow, without a version."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.record_rejection(
        Path(candidate.path),
        story=steps.Story(
            run_id=run_id,
            reason=reason,
            features=Path(features.path),
            trained=Path(trained.path),
            report=Path(report.path),
            validation=Path(validation.path),
            data=Path(data),
        ),
        champion=steps.Champion(champion, models, tracking_uri, artifacts, model_name),
    )


@_component
def notify(run_id: str, model_name: str, reason: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Tell people how the run ended, in every outcome."""
    from coalmine.apps.ev_battery import steps

    steps.notify_outcome(
        run_id=run_id,
        model_name=model_name,
        reason=reason,
        state=status.state,
        error=status.error_message or "",
    )


def _place(
    task: Any, *, cpu: str, memory: str, minutes: int, retries: int = 0, secrets: bool = False
) -> None:
    """What a step may use on a cluster, and how often it is tried again.

    Only steps that talk to something else are: data that does not validate will not the next time.
    """
    task.set_cpu_limit(cpu).set_memory_limit(memory).set_caching_options(enable_caching=False)
    task.set_env_variable("PYTHONUNBUFFERED", "1")
    task.set_env_variable("MLFLOW_DISABLE_TELEMETRY", "true")
    if retries:
        task.set_retry(retries, backoff_duration="1s", backoff_factor=2.0)
    if secrets:
        kubernetes.use_secret_as_env(task, secret_name=SECRET, secret_key_to_env=_SECRET_KEYS)
    kubernetes.add_node_selector(task, label_key="kubernetes.io/os", label_value="linux")
    kubernetes.set_timeout(task, minutes * 60)


@_pipeline
def pipeline(
    run_id: str,
    model_name: str,
    tracking_uri: str,
    artifacts: str,
    models: str,
    data: str,
    log_uri: str,
    kind: str = "bootstrap",
    reason: str = "",
    telemetry: str = "",
    champion: str = "",
    since: float = 0.0,
    until: float = 0.0,
    seed: int = 0,
    trials: int = 20,
    tuning_seconds: float = 300.0,
    window_rows: int = 500,
) -> None:
    """One run: a first model, or one that knows the world as it is since an alert's onset."""
    registry = {
        "model_name": model_name,
        "champion": champion,
        "models": models,
        "tracking_uri": tracking_uri,
        "artifacts": artifacts,
    }
    exit_step = notify(run_id=run_id, model_name=model_name, reason=reason)
    _place(exit_step, cpu="500m", memory="512Mi", minutes=5, retries=2, secrets=True)
    with dsl.ExitHandler(exit_step, name="run"):
        ingested = ingest_telemetry(
            kind=kind,
            telemetry=telemetry,
            seed=seed,
            window_rows=window_rows,
            log_uri=log_uri,
            champion=champion,
            since=since,
            until=until,
        )
        _place(ingested, cpu="2", memory="4Gi", minutes=30, retries=2)
        table = ingested.outputs["ingested"]
        validated = validate_data(ingested=table)
        _place(validated, cpu="1", memory="2Gi", minutes=15)
        featured = generate_features(ingested=table, data=data, **registry).after(validated)
        _place(featured, cpu="2", memory="4Gi", minutes=30, secrets=True)
        features = featured.outputs["features"]
        trained = train_fault_classifier(
            features=features, seed=seed, trials=trials, tuning_seconds=tuning_seconds
        )
        _place(trained, cpu="2", memory="4Gi", minutes=120)
        judged = evaluate(features=features, trained=trained.outputs["trained"], **registry)
        _place(judged, cpu="1", memory="2Gi", minutes=15, secrets=True)
        decided = decide(report=judged.outputs["report"])
        _place(decided, cpu="500m", memory="512Mi", minutes=5)
        story = {
            "features": features,
            "trained": trained.outputs["trained"],
            "report": judged.outputs["report"],
            "validation": validated.outputs["report"],
            "run_id": run_id,
            "reason": reason,
            "data": data,
        }
        with dsl.If(decided.output == "promote", name="promote"):
            monitored = set_up_drift_monitoring(
                features=features,
                trained=trained.outputs["trained"],
                candidate=judged.outputs["candidate"],
                window_rows=window_rows,
            )
            _place(monitored, cpu="1", memory="2Gi", minutes=15)
            registered = register_model(model=monitored.outputs["model"], **story, **registry)
            _place(registered, cpu="1", memory="1Gi", minutes=15, retries=2, secrets=True)
        with dsl.Else(name="reject"):
            kept = record_rejection(candidate=judged.outputs["candidate"], **story, **registry)
            _place(kept, cpu="1", memory="1Gi", minutes=15, retries=2, secrets=True)
