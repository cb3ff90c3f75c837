"""The model service file, `coalmine.yaml`: what to serve and how to watch it.

`load_service` reads and validates a file, `service_schema` gives the JSON schema for editors.
Every setting has a default that suits a first run, except the name and the model's URI.
"""

from coalmine.spec._alibi import AlibiDetector, AlibiSpec
from coalmine.spec._load import Problem, ServiceFileError, load_service, service_schema
from coalmine.spec._models import (
    ClusterSpec,
    FeatureSpec,
    GuardsSpec,
    LimitsSpec,
    ModelSpec,
    RetrainingSpec,
    RolloutSpec,
    RoutingSpec,
    ServiceSpec,
    ShadowSpec,
    StepSpec,
)
from coalmine.spec._monitors import (
    AlertsSpec,
    DriftSpec,
    MonitorsSpec,
    OnlineSpec,
    PerformanceSpec,
    QualitySpec,
    SegmentColumnSpec,
)
from coalmine.spec._pipeline import (
    PipelineClusterSpec,
    PodSpec,
    SegmentSpec,
    TolerationSpec,
    VolumeSpec,
)
from coalmine.spec._units import parse_interval

__all__ = [
    "AlertsSpec",
    "AlibiDetector",
    "AlibiSpec",
    "ClusterSpec",
    "DriftSpec",
    "FeatureSpec",
    "GuardsSpec",
    "LimitsSpec",
    "ModelSpec",
    "MonitorsSpec",
    "OnlineSpec",
    "PerformanceSpec",
    "PipelineClusterSpec",
    "PodSpec",
    "Problem",
    "QualitySpec",
    "RetrainingSpec",
    "RolloutSpec",
    "RoutingSpec",
    "SegmentColumnSpec",
    "SegmentSpec",
    "ServiceFileError",
    "ServiceSpec",
    "ShadowSpec",
    "StepSpec",
    "TolerationSpec",
    "VolumeSpec",
    "load_service",
    "parse_interval",
    "service_schema",
]
