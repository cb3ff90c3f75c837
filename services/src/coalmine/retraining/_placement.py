"""Where the steps of a pipeline run on a cluster, and how often each is tried.

A pipeline says what its steps need (`place`); the service file says what the cluster has
(`retraining.cluster`), while the pipeline is compiled for it (`on_cluster`). Without one the
pipeline's own numbers stand. A laptop ignores all of it but the retries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalmine.spec import PipelineClusterSpec, PodSpec

#: In the secret of the pipeline, and the variable that a step finds it in. On a laptop the
#: retrainer sets the variables itself.
SECRET_KEYS = {"notify-url": "COALMINE_NOTIFY_URL", "mlflow-token": "MLFLOW_TRACKING_TOKEN"}
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
_CLUSTER: ContextVar[PipelineClusterSpec | None] = ContextVar("cluster", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a step needs."""

    cpu: str
    memory: str
    minutes: int
    talks: bool = False
    """To the record log, the registry or people: it is tried again, and is given the secret. Data
    that does not validate will not the next time."""

    trains: bool = False
    """It gets the machine that the service file keeps for training."""

    pure: bool = False
    """What it writes depends on its inputs alone and it does nothing else: it may be cached."""


@contextmanager
def on_cluster(cluster: PipelineClusterSpec | None) -> Iterator[None]:
    """For the body, pipelines are made for this cluster."""
    token = _CLUSTER.set(cluster)
    try:
        yield
    finally:
        _CLUSTER.reset(token)


def parallelism() -> int:
    """Steps of a loop that run at once."""
    return _cluster().parallelism


def place(task: Any, needs: Needs) -> Any:
    """Give a task of a pipeline what it needs; the task."""
    from kfp import kubernetes

    cluster = _cluster()
    pod = cluster.training if needs.trains else cluster.steps
    task.set_cpu_limit(pod.cpu or needs.cpu).set_memory_limit(pod.memory or needs.memory)
    task.set_caching_options(enable_caching=cluster.cache and needs.pure)
    for name, value in _ENVIRONMENT.items():
        task.set_env_variable(name, value)
    if needs.talks:
        if cluster.retries:
            task.set_retry(cluster.retries, backoff_duration="1s", backoff_factor=2.0)
        kubernetes.use_secret_as_env(
            task, secret_name=cluster.secret, secret_key_to_env=SECRET_KEYS
        )
    kubernetes.set_timeout(task, needs.minutes * 60)
    if _CLUSTER.get() is not None:
        task.set_container_image(cluster.image)
    if cluster.volume is not None:
        kubernetes.mount_pvc(task, pvc_name=cluster.volume.claim, mount_path=cluster.volume.path)
    _schedule(task, pod)
    return task


def _cluster() -> PipelineClusterSpec:
    from coalmine.spec import PipelineClusterSpec  # a step does without

    return _CLUSTER.get() or PipelineClusterSpec()


def _schedule(task: Any, pod: PodSpec) -> None:
    """Put its pod on the nodes that the service file names."""
    from kfp import kubernetes

    for key, value in {"kubernetes.io/os": "linux", **pod.node_selector}.items():
        kubernetes.add_node_selector(task, label_key=key, label_value=value)
    for taint in pod.tolerations:
        kubernetes.add_toleration(
            task, key=taint.key, operator=taint.operator, value=taint.value, effect=taint.effect
        )
    if pod.gpus:
        task.set_accelerator_type(pod.gpu_resource).set_accelerator_limit(pod.gpus)
