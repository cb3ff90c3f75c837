"""The training pipeline's part of the service file: what it judges by, and where it runs."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coalmine.spec._units import Name

Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""Of Kubernetes: `500m` of a CPU, `4Gi` of memory."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentSpec(_Spec):
    """A feature and the edges that cut it into segments; a candidate must be worse in none."""

    feature: Annotated[str, Field(pattern=r"^[^:,]+$")]
    edges: Annotated[tuple[float, ...], Field(min_length=1, max_length=20)]
    """Rising; a value that equals an edge belongs above it."""

    @model_validator(mode="after")
    def _edges_rise(self) -> SegmentSpec:
        if not all(map(isfinite, self.edges)) or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges: numbers that rise, as [5, 30]")
        return self

    @property
    def text(self) -> str:
        """As the pipeline's loop takes it: `temperature_mean: 5, 30`."""
        return f"{self.feature}: {', '.join(f'{edge:g}' for edge in self.edges)}"


class TolerationSpec(_Spec):
    """A taint that a step's pod bears."""

    key: str
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_belongs_to_equal(self) -> TolerationSpec:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("`value` belongs to `operator: Equal`, which needs one")
        return self


class PodSpec(_Spec):
    """What the pods of some steps get, and where they run."""

    cpu: Quantity | None = None
    """null: what each step asks for itself."""

    memory: Quantity | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = {}
    tolerations: tuple[TolerationSpec, ...] = ()


class VolumeSpec(_Spec):
    """A PersistentVolumeClaim that every step mounts; for state that no other store keeps."""

    claim: Name
    path: Annotated[str, Field(pattern=r"^/.+")] = "/mnt/coalmine"


class PipelineClusterSpec(_Spec):
    """Where the pipeline runs on a cluster with Kubeflow Pipelines."""

    endpoint: Annotated[str, Field(pattern=r"^https?://.+")] | None = None
    """Of the Kubeflow Pipelines API, for `coalmine retrain --submit` without a URL."""

    namespace: Name = "kubeflow"
    """Of the Katib Experiment and the TrainJob."""

    experiment: str | None = None
    """Kubeflow's group of runs (null: the service's name)."""

    image: str = "coalmine/retraining-python:0.1.0"
    service_account: Name | None = None
    secret: Name = "coalmine-retraining"
    """With the keys `notify-url` and `mlflow-token`."""

    volume: VolumeSpec | None = None
    tracking_uri: str | None = None
    """Of MLflow (null: a SQLite file on the volume)."""

    log_uri: str | None = None
    """Of the record log (null: a SQLite file on the volume)."""

    steps: PodSpec = PodSpec()
    training: PodSpec = PodSpec()
    """For the one step that trains; its GPUs speed up the network, not the trees."""

    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Of a step that talks to the log, the registry or people."""

    parallelism: Annotated[int, Field(ge=1)] = 2
    """Segments judged, and trials of the Katib Experiment run, at once."""

    cache: bool = False
    """Reuse what steps without side effects have written for the same inputs. The image must be
    pinned by its digest: else new code would get old answers."""

    @model_validator(mode="after")
    def _cache_needs_a_digest(self) -> PipelineClusterSpec:
        if self.cache and "@sha256:" not in self.image:
            raise ValueError(
                "cache: Kubeflow takes an image of the same name for the same code; pin "
                "`image: name@sha256:...`, or leave the cache off"
            )
        return self
