"""The search and the training as objects of Kubeflow: Katib's Experiment, the Trainer's TrainJob.

For a search that is larger than one machine. Both run `coalmine.retraining.trial`, over the same
search space as the pipeline's own search, and learn from the training set that it stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalmine.retraining._errors import RetrainingError
from coalmine.retraining.learning import FamilyName, Space, space_of

if TYPE_CHECKING:
    from coalmine.spec import PipelineClusterSpec, PodSpec, ServiceSpec

_COMMAND = ["python", "-m", "coalmine.retraining.trial"]
_CONTAINER = "training"
#: The Trainer's name for the container of its nodes.
_NODE = "node"
_VOLUME = "coalmine"


def cluster_of(service: ServiceSpec) -> PipelineClusterSpec:
    """The cluster of a service file; RetrainingError names the key that is missing."""
    if service.retraining is None or service.retraining.cluster is None:
        raise RetrainingError(
            "retraining.cluster: is missing; add `cluster: {volume: {claim: ...}}` below "
            "`retraining:` (docs/retraining.md)"
        )
    return service.retraining.cluster


def manifests(service: ServiceSpec, *, rows: str | None = None) -> dict[str, dict[str, Any]]:
    """Manifests by file name: an Experiment and a TrainJob for each kind of model.

    `rows` is the training set, a path on the volume; by default the newest that is there.
    """
    cluster = cluster_of(service)
    if cluster.volume is None:
        raise RetrainingError(
            "retraining.cluster.volume: is missing; trials read the training set from it"
        )
    assert service.retraining is not None
    where = rows or f"{cluster.volume.path}/data"
    found: dict[str, dict[str, Any]] = {}
    for family in service.retraining.candidates:
        name = f"{service.name}-{family}"
        given = ["--rows", where, "--family", family]
        found[f"katib-{family}.yaml"] = _experiment(
            name, cluster, family=family, arguments=given, trials=service.retraining.trials
        )
        out = f"{cluster.volume.path}/trained/{name}"
        found[f"trainjob-{family}.yaml"] = _train_job(
            name, cluster, arguments=[*given, "--out", out]
        )
    return found


def write_manifests(
    service: ServiceSpec, directory: Path, *, rows: str | None = None
) -> list[Path]:
    """Write the manifests as YAML files; their paths."""
    import yaml

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, manifest in manifests(service, rows=rows).items():
        path = directory / name
        path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
        written.append(path)
    return written


def _experiment(
    name: str,
    cluster: PipelineClusterSpec,
    *,
    family: FamilyName,
    arguments: list[str],
    trials: int,
) -> dict[str, Any]:
    """Katib's Experiment, v1beta1: TPE and the median rule, as Optuna's here."""
    space = space_of(family)
    chosen = [text for key in space for text in ("--set", f"{key}=${{trialParameters.{key}}}")]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"backoffLimit": 0, "template": {"spec": _pod(cluster, [*arguments, *chosen])}},
    }
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": {
            "objective": {
                "type": "minimize",
                "objectiveMetricName": "loss",
                "metricStrategies": [{"name": "loss", "value": "min"}],
            },
            "algorithm": {
                "algorithmName": "tpe",
                "algorithmSettings": [{"name": "random_state", "value": "0"}],
            },
            "earlyStopping": {
                "algorithmName": "medianstop",
                "algorithmSettings": [
                    {"name": "min_trials_required", "value": "3"},
                    {"name": "start_step", "value": "2"},
                ],
            },
            "parallelTrialCount": min(cluster.parallelism, trials),
            "maxTrialCount": trials,
            "maxFailedTrialCount": cluster.retries,
            "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
            "parameters": _parameters(space),
            "trialTemplate": {
                "primaryContainerName": _CONTAINER,
                "trialParameters": [{"name": key, "reference": key} for key in space],
                "trialSpec": job,
            },
        },
    }


def _parameters(space: Space) -> list[dict[str, Any]]:
    return [
        {
            "name": key,
            "parameterType": "int" if dimension.whole else "double",
            "feasibleSpace": {
                "min": f"{dimension.low:g}",
                "max": f"{dimension.high:g}",
                "distribution": "logUniform" if dimension.log else "uniform",
            },
        }
        for key, dimension in space.items()
    ]


def _train_job(name: str, cluster: PipelineClusterSpec, *, arguments: list[str]) -> dict[str, Any]:
    """The Trainer's TrainJob, v1alpha1: one node, with the defaults of the search space."""
    pod = _pod(cluster, arguments)
    (container,) = pod["containers"]
    overrides: dict[str, Any] = {
        key: pod[key]
        for key in ("volumes", "nodeSelector", "tolerations", "serviceAccountName")
        if key in pod
    }
    overrides["containers"] = [{"name": _NODE, "volumeMounts": container["volumeMounts"]}]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": "torch-distributed",
            },
            "trainer": {
                "image": cluster.image,
                "command": _COMMAND,
                "args": arguments,
                "numNodes": 1,
                "resourcesPerNode": container["resources"],
                "env": container["env"],
            },
            "podTemplateOverrides": [{"targetJobs": [{"name": _NODE}], "spec": overrides}],
        },
    }


def _pod(cluster: PipelineClusterSpec, arguments: list[str]) -> dict[str, Any]:
    """The pod of one training."""
    assert cluster.volume is not None
    pod = cluster.training
    container = {
        "name": _CONTAINER,
        "image": cluster.image,
        "command": _COMMAND,
        "args": arguments,
        "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}],
        "resources": {"limits": _limits(pod)},
        "volumeMounts": [{"name": _VOLUME, "mountPath": cluster.volume.path}],
    }
    claim = {"claimName": cluster.volume.claim}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": _VOLUME, "persistentVolumeClaim": claim}],
        "nodeSelector": {"kubernetes.io/os": "linux", **pod.node_selector},
    }
    if pod.tolerations:
        spec["tolerations"] = [taint.model_dump(exclude_none=True) for taint in pod.tolerations]
    if cluster.service_account is not None:
        spec["serviceAccountName"] = cluster.service_account
    return spec


def _limits(pod: PodSpec) -> Mapping[str, str]:
    limits = {"cpu": pod.cpu or "2", "memory": pod.memory or "4Gi"}
    if pod.gpus:
        limits[pod.gpu_resource] = str(pod.gpus)
    return limits
