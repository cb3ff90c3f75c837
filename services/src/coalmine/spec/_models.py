"""The keys of the service file, their types, defaults and reasons."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coalmine.spec._monitors import MonitorsSpec
from coalmine.spec._pipeline import PipelineClusterSpec, SegmentSpec
from coalmine.spec._units import DottedPath, Duration, HeaderName, HttpUrl, Name, Schedule, Size

Provider = Literal["tensorrt", "cuda", "cpu"]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Spec):
    """What to serve."""

    uri: Annotated[str, Field(pattern=r"^(models:/.|file:.|(s3|gs|hf|https?)://[^/]+/.)")]
    """`models:/name@alias` or `models:/name/3` (the service's own registry); `file:` and a model
    directory; or one that is elsewhere: `s3://`, `gs://`, `hf://` or `http(s)://`."""

    threads: Annotated[int, Field(ge=0, le=1024)] = 1
    """ONNX Runtime threads of one server; one suits small models, and leaves cores to others. 0:
    all the CPUs that affinity and the container's quota leave."""

    providers: Annotated[tuple[Provider, ...], Field(min_length=1)] = ("cpu",)
    """What ONNX Runtime may run the network on, in the order to try."""

    require_gpu: bool = False
    """Whether a server that would end on the CPU does not start."""

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        if len(set(self.providers)) < len(self.providers):
            raise ValueError(f"providers: {', '.join(self.providers)}: name each only once")
        if self.require_gpu and set(self.providers) == {"cpu"}:
            raise ValueError("`require_gpu` needs a GPU among `providers`: [cuda, cpu]")
        return self


class FeatureSpec(_Spec):
    """What is expected of one feature; a feature not listed is monitored with the defaults."""

    name: str
    unit: str | None = None
    range: tuple[float, float] | None = None
    """Values outside are data faults (None: no limit)."""

    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of missing values above which the feature is faulty."""

    role: Literal["feature", "sensor_check"] = "feature"
    """`sensor_check`: a difference of redundant sensors. It moves with neither season nor fleet, so
    a shift of it is a data fault, never drift."""

    sensor: str | None = None
    """The sensor to look at when this feature is faulty, named in the alert."""

    tolerance: Annotated[float, Field(gt=0)] | None = None
    """sensor_check only: shift of the window's median from the reference's that is a fault, in the
    feature's unit."""

    @model_validator(mode="after")
    def _check(self) -> FeatureSpec:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {list(self.range)} is empty; the lower limit comes first")
        if (self.role == "sensor_check") != (self.tolerance is not None):
            raise ValueError("`tolerance` belongs to `role: sensor_check`, which needs it")
        return self


class RoutingSpec(_Spec):
    """How the gateway splits and retries requests."""

    sticky_header: HeaderName | None = "x-user-id"
    """Requests with the same value stay on one arm while weights rise; null: each request alone."""

    arm_header: HeaderName | None = None
    """A request whose header of this name says `canary` (or another arm) goes there, outside of
    the split: for testers. null: no header chooses."""

    timeout: Duration = 30.0
    """Whole-request limit at the gateway, retries included."""

    retries: Annotated[int, Field(ge=0, le=100)] = 30
    """Tries after a refused or broken connection to an arm, with back-off: bridges its restart."""

    @model_validator(mode="after")
    def _headers_differ(self) -> RoutingSpec:
        if self.arm_header is not None and self.arm_header == self.sticky_header:
            raise ValueError(f"arm_header: {self.arm_header} is the `sticky_header` already")
        return self


class ShadowSpec(_Spec):
    """The shadow stage: the candidate sees a mirror of the traffic, its answers are discarded."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_time: Duration = 60.0
    """At least this long, and until the paired labels show non-inferiority or regression."""

    gate: bool = False
    """Whether a person has to let it go on (`coalmine rollout resume`) once it is passed."""


class StepSpec(_Spec):
    """One step of the canary."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """Percent of requests to the canary."""

    min_time: Duration = 60.0
    gate: bool = False
    """Whether a person has to let it go on (`coalmine rollout resume`) once it is passed; of the
    last step: to the promotion."""


_Margin = Annotated[float, Field(gt=0, lt=1)]


class GuardsSpec(_Spec):
    """Margins within which a candidate counts as non-inferior to stable. null: not guarded."""

    error_rate: _Margin | None = 0.01
    """Extra share of failed requests."""

    slow_rate: _Margin | None = 0.15
    """Extra share of requests slower than stable's p95."""

    tail_rate: _Margin | None = 0.02
    """Extra share of requests slower than stable's p99."""

    accuracy: _Margin | None = 0.02
    """Lost share of right answers."""

    prediction_drift: _Margin | None = None
    """By how much the share of a predicted class may differ from stable's."""

    @model_validator(mode="after")
    def _something_is_guarded(self) -> GuardsSpec:
        if self.error_rate is None and self.accuracy is None and self.prediction_drift is None:
            raise ValueError(
                "guards: give a margin for error_rate, accuracy or prediction_drift; nothing can "
                "be promoted on latency alone"
            )
        return self


class EvidenceSpec(_Spec):
    """Who counts what the arms did. Labels, pairs and predictions: the performance monitor."""

    requests: Literal["monitor", "prometheus", "scrape"] = "monitor"
    """Of requests, their errors and latencies, and so of each arm's share: the performance monitor
    from the records, a Prometheus that scrapes the servers, or the controller itself."""

    prometheus: HttpUrl | None = None
    """Base address; null: that of the local stack."""

    block: Annotated[Duration, Field(ge=1)] = 15.0
    """prometheus, scrape: counts are compared over blocks of this length; three times the interval
    of Prometheus' scrapes, or more."""

    @model_validator(mode="after")
    def _address_is_used(self) -> EvidenceSpec:
        if self.prometheus is not None and self.requests != "prometheus":
            raise ValueError("prometheus: is an address that `requests: prometheus` uses")
        return self


class RolloutSpec(_Spec):
    """When a candidate is promoted, held or rolled back."""

    shadow: ShadowSpec | None = ShadowSpec()
    steps: Annotated[tuple[StepSpec, ...], Field(min_length=1)] = (
        StepSpec(weight=10),
        StepSpec(weight=50),
    )
    baseline: bool = False
    """Whether a second copy of stable, as young and as busy as the canary, is started beside it in
    the weight steps, and the canary is judged against that: costs one more server meanwhile."""

    guards: GuardsSpec = GuardsSpec()
    significance: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """How often a good candidate may be rolled back at most, over a whole rollout and all guards.
    One that is worse by a margin is promoted a quarter as often at most."""

    evidence: EvidenceSpec = EvidenceSpec()
    max_start: Duration = 60.0
    """How long a candidate may take to answer its first request, before it is given up."""

    max_duration: Duration = 3600.0
    on_insufficient: Literal["hold", "revert"] = "hold"
    """What happens at `max_duration` without enough evidence."""

    cooldown: Duration = 86400.0
    """How long a rejected model digest is not offered again."""

    @model_validator(mode="after")
    def _weights_rise(self) -> RolloutSpec:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"steps: weights must rise from step to step, found {weights}")
        if self.baseline:
            # 100 is no step in which anything is compared.
            for place, weight in enumerate(weights):
                if 50 < weight < 100:
                    raise ValueError(
                        f"steps.{place}.weight: {weight}: with `baseline: true` at most 50, since "
                        "the baseline gets as many requests as the canary"
                    )
        return self


class RetrainingSpec(_Spec):
    """When an alert starts the pipeline, and what the pipeline may spend."""

    pipeline: DottedPath
    """`module:object` of a KFP pipeline function."""

    alerts: tuple[str, ...] = ("CoalmineAccuracyLoss",)
    """Alert names that may start a run."""

    schedule: Schedule | None = None
    """Starts a run too: a cron expression of five fields, in UTC, or an interval of at least 1m."""

    cooldown: Duration = 3600.0
    """Between the end of one run and the start of the next."""

    back_off: Duration = 6 * 3600.0
    """Wait after a rejected candidate; doubled by each further one about the same champion."""

    max_back_off: Duration = 7 * 86400.0
    max_failures: Annotated[int, Field(ge=1)] = 3
    """Failed runs in a row after which nothing is retrained until `coalmine retrain reset`."""

    daily_budget: Annotated[int, Field(ge=1)] = 4
    min_labels: Annotated[int, Field(ge=0)] = 2000
    """Labelled rows of the affected version, younger than the incident's onset, to wait for."""

    maturity: Duration = 0.0
    """Age from which a record counts as labelled for good: what fails early is labelled first."""

    max_wait: Duration = 3600.0
    """How long an accepted alert waits for `min_labels` before it is given up."""

    trials: Annotated[int, Field(ge=1)] = 20
    time_limit: Duration = 3600.0
    """Wall clock of one run; the run is killed beyond it, and its exit step still notifies."""

    retries: Annotated[int, Field(ge=0)] = 1
    """Times a run that died (not one that rejected) is started again."""

    candidates: Annotated[tuple[Literal["lightgbm", "mlp"], ...], Field(min_length=1)] = (
        "lightgbm",
        "mlp",
    )
    """Kinds of model that compete; `mlp` where PyTorch is installed. They share the trials."""

    segments: tuple[SegmentSpec, ...] = ()
    """Besides the classes: where a candidate must not be worse, however good it is elsewhere."""

    cluster: PipelineClusterSpec | None = None
    """For `coalmine retrain --submit`, `--compile` and `--manifests`; a laptop does not look."""


class RecordsSpec(_Spec):
    """How long records stay in the log, where monitors and retraining read them."""

    max_age: Annotated[Duration, Field(gt=0)] | None = None
    """Of record time; null: for ever."""

    max_bytes: Size | None = None
    """Of packed records; beyond it the oldest go. null: no limit."""

    archive: bool = True
    """Whether what leaves the log is kept as Parquet, where retraining still finds it."""


class LimitsSpec(_Spec):
    """What a server takes before it sheds."""

    max_body: Size = 16 * 1024**2
    max_queue_rows: Annotated[int, Field(ge=1)] = 16384
    max_concurrency: Annotated[int, Field(ge=1)] = 1024
    max_spool: Size = 256 * 1024**2
    """Records a server keeps on disk while the collector is away; beyond it, shed and counted."""


class ClusterSpec(_Spec):
    """Where the rollout controller finds the model service on a Kubernetes cluster."""

    router: Literal["kserve-serverless", "kserve-standard", "httproute"]
    """How requests are split there; `docs/rollouts.md` says what each needs."""

    model_uri: str
    """Storage URI of a version, for KServe: a template of `{name}`, `{version}`, `{digest}`."""

    inference_service: Name | None = None
    """The InferenceService, or with `httproute` what comes before `-stable` (null: `name`)."""

    http_route: Name | None = None
    """httproute only: the HTTPRoute whose backends are weighted (null: `name`)."""

    namespace: Name | None = None
    """null: the pod's own, or that of the kubeconfig."""

    @model_validator(mode="after")
    def _check(self) -> ClusterSpec:
        try:
            fields = {field for _, field, _, _ in Formatter().parse(self.model_uri) if field}
        except ValueError as error:
            raise ValueError(f"model_uri: {error}") from None
        if unknown := sorted(fields - {"name", "version", "digest"}):
            raise ValueError(f"model_uri: knows {{name}}, {{version}}, {{digest}}, found {unknown}")
        if not fields & {"version", "digest"}:
            raise ValueError("model_uri: needs {version} or {digest}, else all versions are one")
        if self.http_route is not None and self.router != "httproute":
            raise ValueError("`http_route` belongs to `router: httproute`")
        return self


class ServiceSpec(_Spec):
    """A model service."""

    apiVersion: Literal["coalmine/v1"] = "coalmine/v1"
    name: Name
    model: ModelSpec
    transformer: DottedPath | None = None
    """`module:Class` of a `coalmine_transformers.Transformer`."""

    features: tuple[FeatureSpec, ...] = ()
    routing: RoutingSpec = RoutingSpec()
    rollout: RolloutSpec = RolloutSpec()
    monitors: MonitorsSpec = MonitorsSpec()
    retraining: RetrainingSpec | None = None
    records: RecordsSpec = RecordsSpec()
    limits: LimitsSpec = LimitsSpec()
    cluster: ClusterSpec | None = None
    """None: on this machine only. `coalmine run rollout --cluster` needs it, `coalmine up` does not
    look at it."""

    @model_validator(mode="after")
    def _segments_are_unique(self) -> ServiceSpec:
        names = [segment.feature for segment in self.monitors.segments]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"monitors.segments: listed more than once: {', '.join(doubled)}")
        return self

    @model_validator(mode="after")
    def _features_are_unique(self) -> ServiceSpec:
        names = [feature.name for feature in self.features]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"features: listed more than once: {', '.join(doubled)}")
        return self
