"""The pipeline of the reference application: as a cluster gets it, and as a laptop runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from coalmine.modeldir import load_card, model_digest
from coalmine.retraining import RetrainingError, compile_pipeline, learning, local_registry

PIPELINE = "coalmine.apps.ev_battery.pipeline:pipeline"
STEPS = {
    "ingest-telemetry",
    "validate-data",
    "generate-features",
    "train-fault-classifier",
    "evaluate",
    "gather-report",
    "decide",
    "set-up-drift-monitoring",
    "register-model",
    "notify",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::FutureWarning:kfp"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kfp"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The pipeline's specification and its platform part."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    path = tmp_path_factory.mktemp("yaml") / "pipeline.yaml"
    compile_pipeline(path, pipeline=PIPELINE)
    content, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    spec = json_format.ParseDict(content, pipeline_spec_pb2.PipelineSpec())
    return spec, platform


def _tasks(spec: Any) -> dict[str, Any]:
    found = dict(spec.root.dag.tasks)
    for component in spec.components.values():
        found |= dict(component.dag.tasks)
    return found


def test_it_compiles_to_what_a_cluster_takes(compiled: tuple[Any, Any]) -> None:
    spec, platform = compiled
    tasks = _tasks(spec)
    assert STEPS | {"judge-segments", "record-rejection"} <= set(tasks)
    conditions = {
        name: task.trigger_policy.condition
        for name, task in tasks.items()
        if task.trigger_policy.condition
    }
    assert len(conditions) == 2  # one string, one If and its Else, and nothing else
    assert all("decide-Output'] == 'promote'" in text for text in conditions.values())
    strategy = tasks["notify"].trigger_policy.strategy
    assert strategy == type(tasks["notify"].trigger_policy).ALL_UPSTREAM_TASKS_COMPLETED
    assert tasks["register-model"].retry_policy.max_retry_count == 2
    assert tasks["train-fault-classifier"].retry_policy.max_retry_count == 0
    executors = spec.deployment_spec["executors"]
    for name in executors:
        container = executors[name]["container"]
        assert container["resources"]["resourceCpuLimit"]
        assert container["resources"]["resourceMemoryLimit"]
        assert {entry["name"] for entry in container["env"]} >= {"MLFLOW_DISABLE_TELEMETRY"}
        assert "pip install" not in " ".join(container["command"])
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(kubernetes) == set(executors)
    secret = kubernetes["exec-notify"]["secretAsEnv"][0]
    assert {entry["envVar"] for entry in secret["keyToEnv"]} == {
        "COALMINE_NOTIFY_URL",
        "MLFLOW_TRACKING_TOKEN",
    }
    assert kubernetes["exec-train-fault-classifier"]["nodeSelector"]["labels"] == {
        "kubernetes.io/os": "linux"
    }
    assert "secretAsEnv" not in kubernetes["exec-decide"]


def test_a_pipeline_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetrainingError, match=r"retraining\.pipeline: cannot load 'nothing:here'"):
        compile_pipeline(tmp_path / "x.yaml", pipeline="nothing:here")


# -- on a laptop -----------------------------------------------------------------------------------


def _run(state: Path, run_id: str, **parameters: Any) -> dict[str, Any]:
    """One run of the pipeline, as the retrainer starts it; its result, with the steps' names."""
    directory = state / "runs" / run_id
    directory.mkdir(parents=True)
    order = {
        "run_id": run_id,
        "kind": "bootstrap",
        "reason": "a test",
        "model_name": "ev-battery",
        "seed": 11,
        "trials": 2,
        "tuning_seconds": 60.0,
        "window_rows": 100,
        "candidates": "lightgbm",
        "segments": ["class", "temperature_mean: 5, 30"],
        "tracking_uri": f"sqlite:///{state / 'mlflow.db'}",
        "artifacts": str(state / "mlartifacts"),
        "models": str(state / "models"),
        "data": str(state / "data"),
        "log_uri": f"sqlite:///{state / 'records.db'}",
        **parameters,
    }
    content = {"parent": os.getpid(), "pipeline": PIPELINE, "parameters": order}
    (directory / "run.json").write_text(json.dumps(content), encoding="utf-8")
    with (directory / "log.txt").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "coalmine.retraining.run", str(directory)],
            stdout=log,
            stderr=log,
            check=True,
            env={
                **os.environ,
                "COALMINE_NOTIFY_URL": (state / "notices.jsonl").as_uri(),
                "OMP_NUM_THREADS": "1",
            },
        )
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    result: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    done = {e["name"] for e in events if e["event"] == "step" and e["state"] == "done"}
    return {**result, "steps": done}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A state directory with a first model of the simulated fleet, promoted."""
    state = tmp_path_factory.mktemp("first")
    result = _run(state, "bootstrap-1")
    local_registry("ev-battery", state=state).promote(result["version"])
    return state, result


@pytest.mark.slow
def test_a_first_model_is_complete(first: tuple[Path, dict[str, Any]]) -> None:
    state, result = first
    assert (result["outcome"], result["version"]) == ("promote", "1")
    assert result["steps"] == STEPS | {
        "judge-segments (class)",
        "judge-segments (temperature_mean: 5, 30)",
    }
    registry = local_registry("ev-battery", state=state)
    directory = registry.materialise("1")
    card = load_card(directory)
    assert card.metrics["accuracy"] > 0.9
    assert card.training_data is not None
    assert learning.training_set_path(card.training_data, data=state / "data").exists()
    reference = pq.read_table(directory / "reference.parquet")
    assert reference.num_rows >= 20 * 100
    said = reference["label"].to_numpy()
    names = np.array(card.output_columns()[0].categories)
    right = names[said] == reference["true_label"].to_numpy()
    # The monitors' baseline is what the model does on data like production's.
    assert right.mean() == pytest.approx(card.metrics["accuracy"], abs=0.01)
    tags = registry.version("1").tags
    assert (tags["parity"], tags["digest"]) == ("passed", model_digest(directory))
    notices = [json.loads(line) for line in (state / "notices.jsonl").read_text().splitlines()]
    assert notices[0]["outcome"] == "SUCCEEDED"
    assert notices[0]["message"].startswith("promote: first model: accuracy")


@pytest.mark.slow
def test_drift_is_learned_from_production(first: tuple[Path, dict[str, Any]]) -> None:
    """Half of the fleet gets a new chemistry: the champion fails, its successor does not."""
    from coalmine.apps.ev_battery import (
        CLASSES,
        SCENARIO_WORLDS,
        Fleet,
        FleetConfig,
        Telemetry,
        World,
    )
    from coalmine.records import BatchId, InferenceRecord, Label, open_log, record_batch
    from coalmine_transformers.battery import BatteryTransformer

    state, _ = first
    registry = local_registry("ev-battery", state=state)
    directory = registry.materialise("1")
    old, card = learning.Network(directory / "model.onnx"), load_card(directory)
    fleet = Fleet(FleetConfig(seed=11), world=SCENARIO_WORLDS["chemistry"])

    def features(telemetry: Telemetry) -> np.ndarray:
        found: np.ndarray = BatteryTransformer().preprocess(telemetry.raw)["features"]
        return found

    log = open_log(f"sqlite:///{state / 'records.db'}")
    onset = 1_700_000_000.0
    records, labels = [], []
    for number, upload in enumerate(fleet.uploads(500).each_upload()):
        matrix = features(upload)
        said, shares = old.predict(matrix)
        time = onset + number / 25
        records.append(
            InferenceRecord(
                request_id=f"q{number}",
                time=time,
                protocol="v2",
                latency_us=500,
                inputs={"features": matrix},
                outputs={"label": said, "probabilities": shares},
            )
        )
        if number < 300:
            truth = upload.label_names
            labels += [Label(f"q{number}", name, time, row) for row, name in enumerate(truth)]
    batch = record_batch(records, card=card, model_version="1", arm="stable")
    log.append(batch, batch_id=BatchId("server", 1, batch.num_rows))
    log.put_labels(labels)
    log.close()

    present = {"champion": "1", "since": onset, "until": onset + 1000}
    result = _run(state, "retrain-1", kind="retrain", **present)
    assert (result["outcome"], result["version"]) == ("promote", "2")
    new = learning.Network(registry.materialise("2") / "model.onnx")
    fresh = fleet.uploads(600)
    matrix, truth = features(fresh), fresh.label
    before = (old.predict(matrix)[0] == truth).mean()
    after = (new.predict(matrix)[0] == truth).mean()
    usual = Fleet(FleetConfig(seed=11), world=World()).uploads(600)
    wanted = (old.predict(features(usual))[0] == usual.label).mean()
    assert after > wanted - 0.02, (before, after, wanted)
    assert after > before + 0.05
    reference = pq.read_table(registry.materialise("2") / "reference.parquet")
    assert reference.num_rows == 4000
    assert reference["true_label"].null_count == 1600
    assert set(reference["true_label"].drop_null().to_pylist()) <= set(CLASSES)
    times = [time.timestamp() for time in reference["time"].to_pylist()]
    assert (times[0], times[-1], times) == (onset, onset + 499 / 25, sorted(times))
    metrics = load_card(registry.materialise("2")).metrics
    assert metrics["accuracy"] == pytest.approx(after, abs=0.03)

    # Once more, with the new model as the champion: it is as good, so nothing is promoted.
    registry.promote("2")
    again = _run(state, "retrain-2", kind="retrain", **{**present, "champion": "2"})
    assert again["outcome"] == "failed"  # version 2 has answered nothing yet
    assert "version 2 has answered nothing since the onset" in again["error"]
    notices = [json.loads(line) for line in (state / "notices.jsonl").read_text().splitlines()]
    assert notices[-1]["outcome"] == "FAILED"
    assert "answered nothing" in notices[-1]["message"]


@pytest.mark.slow
def test_a_file_of_telemetry_makes_the_first_model(tmp_path: Path) -> None:
    from coalmine.apps.ev_battery import Fleet, FleetConfig, write_telemetry

    telemetry = Fleet(FleetConfig(seed=5)).uploads(1200)
    write_telemetry(tmp_path / "fleet.parquet", telemetry)
    result = _run(tmp_path, "bootstrap-1", telemetry=str(tmp_path / "fleet.parquet"))
    assert result["outcome"] == "promote"
    # The same file and seed give the same model.
    again = _run(tmp_path, "bootstrap-2", telemetry=str(tmp_path / "fleet.parquet"))
    registry = local_registry("ev-battery", state=tmp_path)
    assert registry.version("1").digest == registry.version(again["version"]).digest
