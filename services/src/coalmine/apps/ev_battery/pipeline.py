"""The training pipeline, in the Kubeflow Pipelines language.

Thin components call the installed `steps`; the image of a step needs this distribution and no more.
The branch is on the single string of `decide`, with an Else: conditions on anything else fail
silently in one runner or another (docs/retraining.md).
"""

# Kubeflow reads the annotations as objects: no `from __future__ import annotations` here.

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kfp import dsl

from coalmine.retraining import Needs, parallelism, place

IMAGE = "coalmine/retraining-python:0.1.0"

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
    run_id: str,
    data: str,
    candidates: str,
    seed: int,
    trials: int,
    tuning_seconds: float,
    trained: dsl.Output[dsl.Model],
) -> None:
    """The history that still holds, then the best kind of model and its parameters; ONNX."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    study = Path(data) / "studies" / f"{run_id}.db"
    steps.train_fault_classifier(
        Path(features.path),
        Path(trained.path),
        budget=steps.budget(trials=trials, seconds=tuning_seconds, seed=seed, study=study),
        candidates=steps.families(candidates),
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
def judge_segments(
    features: dsl.Input[dsl.Dataset],
    report: dsl.Input[dsl.Artifact],
    segmentation: str,
    segments: dsl.Output[dsl.Artifact],
) -> None:
    """The candidate beside the champion within each segment of one segmentation."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    steps.judge_segments(
        Path(features.path),
        Path(report.path),
        segmentation=segmentation,
        out=Path(segments.path),
    )


@_component
def gather_report(
    report: dsl.Input[dsl.Artifact],
    segments: dsl.Input[list[dsl.Artifact]],
    gathered: dsl.Output[dsl.Artifact],
) -> None:
    """The whole evaluation in one place."""
    from pathlib import Path

    from coalmine.apps.ev_battery import steps

    parts = [Path(part.path) for part in segments]
    steps.gather_report(Path(report.path), parts, out=Path(gathered.path))


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


_SMALL = Needs(cpu="500m", memory="512Mi", minutes=5)
_MEDIUM = Needs(cpu="1", memory="2Gi", minutes=15)
_LARGE = Needs(cpu="2", memory="4Gi", minutes=30)


def _judge_and_release(story: Any, registry: Any, *, segments: Any, window_rows: Any) -> None:
    """Evaluate, on the whole and by segment; then the one branch."""
    features, trained = story["features"], story["trained"]
    judged = evaluate(features=features, trained=trained, **registry)
    place(judged, replace(_MEDIUM, talks=True))
    with dsl.ParallelFor(items=segments, parallelism=parallelism(), name="segments") as segment:
        parts = judge_segments(
            features=features, report=judged.outputs["report"], segmentation=segment
        )
        place(parts, replace(_SMALL, pure=True))
    gathered = gather_report(
        report=judged.outputs["report"], segments=dsl.Collected(parts.outputs["segments"])
    )
    place(gathered, replace(_SMALL, pure=True))
    report, candidate = gathered.outputs["gathered"], judged.outputs["candidate"]
    decided = place(decide(report=report), _SMALL)
    with dsl.If(decided.output == "promote", name="promote"):
        monitored = set_up_drift_monitoring(
            features=features, trained=trained, candidate=candidate, window_rows=window_rows
        )
        place(monitored, replace(_MEDIUM, pure=True))
        model = monitored.outputs["model"]
        registered = register_model(model=model, report=report, **story, **registry)
        place(registered, replace(_MEDIUM, talks=True))
    with dsl.Else(name="reject"):
        kept = record_rejection(candidate=candidate, report=report, **story, **registry)
        place(kept, replace(_MEDIUM, talks=True))


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
    candidates: str = "lightgbm,mlp",
    segments: list[str] = ["class"],  # noqa: B006  # Kubeflow reads it, and writes it as YAML
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
    place(exit_step, replace(_SMALL, talks=True))
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
        place(ingested, replace(_LARGE, talks=True))
        table = ingested.outputs["ingested"]
        validated = place(validate_data(ingested=table), replace(_MEDIUM, pure=True))
        featured = generate_features(ingested=table, data=data, **registry).after(validated)
        place(featured, replace(_LARGE, talks=True))
        features = featured.outputs["features"]
        trained = train_fault_classifier(
            features=features,
            run_id=run_id,
            data=data,
            candidates=candidates,
            seed=seed,
            trials=trials,
            tuning_seconds=tuning_seconds,
        )
        place(trained, Needs(cpu="2", memory="4Gi", minutes=120, trains=True))
        story = {
            "features": features,
            "trained": trained.outputs["trained"],
            "validation": validated.outputs["report"],
            "run_id": run_id,
            "reason": reason,
            "data": data,
        }
        _judge_and_release(story, registry, segments=segments, window_rows=window_rows)
