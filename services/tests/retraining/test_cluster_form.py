"""The pipeline as a cluster gets it: compiled, placed, submitted once, as objects of Kubeflow."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

from coalmine.cli._app import app
from coalmine.retraining import (
    RetrainingError,
    compile_pipeline,
    learning,
    manifests,
    submit,
    wait_for,
    write_manifests,
)
from coalmine.spec import ServiceSpec

from .kfp_server import KfpServer, kfp_server
from .learning_tables import CLASSES, FEATURES, drifted

GOLDEN = Path(__file__).parent / "golden"
PIPELINE = "coalmine.apps.ev_battery.pipeline:pipeline"
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:kfp"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kfp"),
    pytest.mark.filterwarnings("ignore:This client only works"),
    pytest.mark.filterwarnings("ignore:HTTPResponse.getheader"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kfp_server_api"),
]
CLUSTER = {
    "image": "registry.example/coalmine/retraining@sha256:" + "ab" * 32,
    "cache": True,
    "service_account": "pipeline-runner",
    "volume": {"claim": "coalmine-state"},
    "tracking_uri": "http://mlflow.mlops:5000",
    "steps": {"node_selector": {"pool": "cpu"}},
    "training": {
        "cpu": "8",
        "memory": "16Gi",
        "gpus": 1,
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "retries": 3,
    "parallelism": 4,
}


def make_service(**cluster: Any) -> ServiceSpec:
    retraining = {
        "pipeline": PIPELINE,
        "segments": [{"feature": "temperature_mean", "edges": [5, 30]}],
        "cluster": {**CLUSTER, **cluster},
    }
    return ServiceSpec.model_validate(
        {
            "name": "ev-battery",
            "model": {"uri": "models:/ev-battery@champion"},
            "retraining": retraining,
        }
    )


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with kfp_server() as running:
        yield running


def compiled(service: ServiceSpec, path: Path) -> str:
    assert service.retraining is not None
    compile_pipeline(path, pipeline=service.retraining.pipeline, cluster=service.retraining.cluster)
    return path.read_text(encoding="utf-8")


def test_the_golden_files_are_what_is_written(tmp_path: Path) -> None:
    """`COALMINE_GOLDEN=1` writes them again; read the difference before you commit it."""
    compiled(make_service(), tmp_path / "pipeline.yaml")
    write_manifests(make_service(), tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    if os.environ.get("COALMINE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        for name, text in written.items():
            (GOLDEN / name).write_text(text, encoding="utf-8")
    golden = {path.name: path.read_text(encoding="utf-8") for path in GOLDEN.iterdir()}
    assert written == golden


def test_steps_run_where_the_service_file_says(tmp_path: Path) -> None:
    content, platform = yaml.safe_load_all(compiled(make_service(), tmp_path / "p.yaml"))
    spec = json_format.ParseDict(content, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    executors = content["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        container, pod = executor["container"], pods[name]
        trains = name == "exec-train-fault-classifier"
        assert container["image"] == CLUSTER["image"]
        assert pod["nodeSelector"]["labels"]["pool"] == ("gpu" if trains else "cpu")
        assert ("tolerations" in pod) == trains
        assert pod["pvcMount"][0]["mountPath"] == "/mnt/coalmine"
        assert int(pod["activeDeadlineSeconds"]) > 0
        assert ("accelerator" in container["resources"]) == trains
    training = executors["exec-train-fault-classifier"]["container"]["resources"]
    assert training["accelerator"]["resourceType"] == "nvidia.com/gpu"
    tasks = {name: task for c in spec.components.values() for name, task in c.dag.tasks.items()}
    cached = {name for name, task in tasks.items() if task.caching_options.enable_cache}
    assert {"validate-data", "judge-segments"} <= cached
    assert not cached & {"ingest-telemetry", "generate-features", "register-model", "decide"}
    loop = next(task for task in tasks.values() if task.HasField("parameter_iterator"))
    assert loop.iterator_policy.parallelism_limit == 4
    assert tasks["register-model"].retry_policy.max_retry_count == 3


def test_a_cache_without_a_pinned_image_is_refused() -> None:
    with pytest.raises(ValueError, match="pin `image: name@sha256"):
        make_service(image="coalmine/retraining-python:0.1.0")


# -- submission ------------------------------------------------------------------------------------


def test_the_same_run_is_submitted_once(server: KfpServer) -> None:
    first = submit(make_service(), endpoint=server.url, reason="a test", given={})
    again = submit(make_service(), endpoint=server.url, reason="a test", given={})
    assert (first.created, again.created) == (True, False)
    assert (again.run, again.name) == (first.run, first.name)
    other = submit(make_service(), endpoint=server.url, reason="another", given={})
    assert other.created
    assert [experiment["display_name"] for experiment in server.experiments] == ["ev-battery"]
    run = server.runs[0]
    assert run["service_account"] == "pipeline-runner"
    given = run["runtime_config"]["parameters"]
    assert given["segments"] == ["class", "temperature_mean: 5, 30"]
    assert (given["kind"], given["run_id"]) == ("bootstrap", first.name)
    assert given["data"] == "/mnt/coalmine/data"


def test_a_run_that_failed_may_be_tried_again_and_its_end_is_told(server: KfpServer) -> None:
    server.ends = "FAILED"
    service, told = make_service(), list[str]()
    first = submit(service, endpoint=server.url, reason="x", given={"champion": "3"})
    ended = wait_for(
        first, endpoint=server.url, seconds=60, tell=told.append, sleep=lambda seconds: None
    )
    assert (ended.state, ended.error) == ("FAILED", "the data is upside down")
    assert told == ["RUNNING", "FAILED"]
    again = submit(service, endpoint=server.url, reason="x", given={"champion": "3"})
    assert again.created
    assert again.name == f"{first.name}-2"
    assert server.runs[0]["runtime_config"]["parameters"]["kind"] == "retrain"


def test_what_is_wrong_is_said_in_one_line(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RetrainingError, match="cannot be reached"):
            submit(make_service(), endpoint=nobody, reason="x", given={})
    with pytest.raises(RetrainingError, match="is it the address of the API"):
        submit(make_service(), endpoint=f"{server.url}/ui", reason="x", given={})
    with pytest.raises(RetrainingError, match="--set depth: no parameter of the pipeline"):
        submit(make_service(), endpoint=server.url, reason="x", given={"depth": "3"})
    with pytest.raises(RetrainingError, match="--set trials=many: wanted a int"):
        submit(make_service(), endpoint=server.url, reason="x", given={"trials": "many"})
    server.token = "secret"
    with pytest.raises(RetrainingError, match="wants a token, in \\$COALMINE_KFP_TOKEN"):
        submit(make_service(), endpoint=server.url, reason="x", given={})
    monkeypatch.setenv("COALMINE_KFP_TOKEN", "secret")
    assert submit(make_service(), endpoint=server.url, reason="x", given={}).created


def test_the_command_submits_and_waits(server: KfpServer, tmp_path: Path) -> None:
    file = tmp_path / "coalmine.yaml"
    content = make_service().model_dump(mode="json", exclude_unset=True)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    order = ["retrain", "--submit", server.url, "--file", str(file), "--wait", "60"]
    answer = CliRunner().invoke(app, order)
    assert answer.exit_code == 0, answer.output
    assert "submitted" in answer.output
    assert "SUCCEEDED" in answer.output
    answer = CliRunner().invoke(app, ["retrain", "--manifests", str(tmp_path), "--file", str(file)])
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "pipeline.yaml").exists()
    assert (tmp_path / "katib-mlp.yaml").exists()


# -- Katib and the Trainer -------------------------------------------------------------------------

TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


META = closed(["name", "namespace"], name={**TEXT, "pattern": "^[a-z0-9-]{1,63}$"}, namespace=TEXT)
SETTING = closed(["name", "value"], name=TEXT, value=TEXT)
ALGORITHM = closed(
    ["algorithmName"],
    algorithmName={"enum": ["tpe", "medianstop"]},
    algorithmSettings={"type": "array", "items": SETTING},
)
COUNT = {"type": "integer", "minimum": 0}
#: As the fields of kubeflow.org/v1beta1 are documented.
EXPERIMENT = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "kubeflow.org/v1beta1"},
    kind={"const": "Experiment"},
    metadata=META,
    spec=closed(
        ["objective", "algorithm", "parameters", "trialTemplate"],
        objective=closed(
            ["type", "objectiveMetricName"],
            type={"enum": ["minimize", "maximize"]},
            objectiveMetricName=TEXT,
            metricStrategies={"type": "array", "items": SETTING},
        ),
        algorithm=ALGORITHM,
        earlyStopping=ALGORITHM,
        parallelTrialCount=COUNT,
        maxTrialCount=COUNT,
        maxFailedTrialCount=COUNT,
        metricsCollectorSpec=closed(
            ["collector"], collector=closed(["kind"], kind={"const": "StdOut"})
        ),
        parameters={
            "type": "array",
            "minItems": 1,
            "items": closed(
                ["name", "parameterType", "feasibleSpace"],
                name=TEXT,
                parameterType={"enum": ["double", "int", "discrete", "categorical"]},
                feasibleSpace=closed(
                    ["min", "max"],
                    min=TEXT,  # texts, as all of Katib's values
                    max=TEXT,
                    distribution={"enum": ["uniform", "logUniform", "normal", "logNormal"]},
                ),
            ),
        },
        trialTemplate=closed(
            ["primaryContainerName", "trialParameters", "trialSpec"],
            primaryContainerName=TEXT,
            trialParameters={
                "type": "array",
                "items": closed(["name", "reference"], name=TEXT, reference=TEXT),
            },
            trialSpec={"type": "object"},
        ),
    ),
)
#: As the fields of trainer.kubeflow.org/v1alpha1 are documented.
TRAIN_JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=META,
    spec=closed(
        ["runtimeRef", "trainer"],
        runtimeRef=closed(
            ["name"],
            name=TEXT,
            apiGroup={"const": "trainer.kubeflow.org"},
            kind={"enum": ["ClusterTrainingRuntime", "TrainingRuntime"]},
        ),
        trainer=closed(
            ["image"],
            image=TEXT,
            command=TEXTS,
            args=TEXTS,
            numNodes={"type": "integer", "minimum": 1},
            resourcesPerNode=closed(["limits"], limits={"type": "object"}),
            env={"type": "array", "items": SETTING},
        ),
        podTemplateOverrides={
            "type": "array",
            "items": closed(
                ["targetJobs", "spec"],
                targetJobs={"type": "array", "items": closed(["name"], name=TEXT)},
                spec=closed(
                    [],
                    volumes={"type": "array"},
                    nodeSelector={"type": "object"},
                    tolerations={"type": "array"},
                    serviceAccountName=TEXT,
                    containers={
                        "type": "array",
                        "items": closed(["name"], name=TEXT, volumeMounts={"type": "array"}),
                    },
                ),
            ),
        },
    ),
)


@pytest.mark.parametrize("family", learning.FAMILIES)
def test_manifests_are_valid_and_name_the_same_search_space(family: Any) -> None:
    found = manifests(make_service())
    experiment, job = found[f"katib-{family}.yaml"], found[f"trainjob-{family}.yaml"]
    jsonschema.validate(experiment, EXPERIMENT)
    jsonschema.validate(job, TRAIN_JOB)
    space = learning.space_of(family)
    spec = experiment["spec"]
    assert {parameter["name"] for parameter in spec["parameters"]} == set(space)
    for parameter in spec["parameters"]:
        edges = parameter["feasibleSpace"]
        assert float(edges["min"]) == space[parameter["name"]].low
        assert float(edges["max"]) == space[parameter["name"]].high
    pod = spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == spec["trialTemplate"]["primaryContainerName"]
    used = " ".join(container["args"])
    for parameter in spec["trialTemplate"]["trialParameters"]:
        assert f"${{trialParameters.{parameter['name']}}}" in used
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_manifests_without_a_volume_are_refused() -> None:
    with pytest.raises(RetrainingError, match=r"retraining\.cluster\.volume: is missing"):
        manifests(make_service(volume=None))


def test_a_trial_of_katib_gives_the_loss_that_our_own_search_finds(tmp_path: Path) -> None:
    """The command of the manifest, with the values that our search has found best."""
    rows = drifted()
    learning.write_rows(rows, tmp_path / "data.parquet")
    budget = learning.Budget(trials=3, seconds=60.0, seed=0)
    classes = tuple(sorted(CLASSES))  # a training set does not say in which order they are
    found = learning.train_classifier(rows, features=FEATURES, classes=classes, budget=budget)
    spec = manifests(make_service(), rows=str(tmp_path))["katib-lightgbm.yaml"]["spec"]
    pod = spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    command = [*pod["containers"][0]["command"], *pod["containers"][0]["args"]]
    for name, value in found.found.params.items():
        command = [part.replace(f"${{trialParameters.{name}}}", repr(value)) for part in command]
    command += ["--out", str(tmp_path / "out")]
    said = subprocess.run(
        [sys.executable, *command[1:]], capture_output=True, text=True, check=True
    ).stdout.split()
    losses = [float(line.removeprefix("loss=")) for line in said]
    assert losses[-1] == pytest.approx(found.found.tried.loss, rel=1e-6)
    assert min(losses) == losses[-1]
    found.model.export(tmp_path / "ours.onnx")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "ours.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--set", "depth=3"], "not in the search space"),
        (["--set", "num_leaves=500"], "outside [7, 23]"),
        (["--set", "num_leaves"], "wanted NAME=VALUE"),
        ([], "no training set"),
    ],
)
def test_a_trial_that_cannot_be_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    from coalmine.retraining.trial import main

    if arguments:
        learning.write_rows(drifted(), tmp_path / "data.parquet")
    try:
        code = main(["--rows", str(tmp_path), *arguments])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert problem in capsys.readouterr().err
