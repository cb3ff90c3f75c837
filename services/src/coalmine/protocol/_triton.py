"""Messages of Triton's extensions of the inference service that are answered here.

The fields of ModelConfig are those that a served model has something to say about; the numbers are
Triton's, and an enumeration is the integer that it is on the wire.
"""

from __future__ import annotations

__all__ = ["HEALTH_MESSAGES", "TRITON_MESSAGES"]

TRITON_MESSAGES = {
    "ModelConfigRequest": "string name=1; string version=2",
    "ModelVersionPolicy.Latest": "uint32 num_versions=1",
    "ModelVersionPolicy": "ModelVersionPolicy.Latest latest=1",
    "ModelInput": "string name=1; int32 data_type=2; repeated int64 dims=4",
    "ModelOutput": "string name=1; int32 data_type=2; repeated int64 dims=3",
    "ModelInstanceGroup": "string name=1; int32 count=2; int32 kind=4",
    "ModelDynamicBatching": (
        "repeated int32 preferred_batch_size=1; uint64 max_queue_delay_microseconds=2"
    ),
    "ModelConfig": (
        "string name=1; string platform=2; ModelVersionPolicy version_policy=3; "
        "int32 max_batch_size=4; repeated ModelInput input=5; repeated ModelOutput output=6; "
        "repeated ModelInstanceGroup instance_group=7; ModelDynamicBatching dynamic_batching=11; "
        "string backend=17"
    ),
    "ModelConfigResponse": "ModelConfig config=1",
    "StatisticDuration": "uint64 count=1; uint64 ns=2",
    "InferStatistics": (
        "StatisticDuration success=1; StatisticDuration fail=2; StatisticDuration queue=3; "
        "StatisticDuration compute_input=4; StatisticDuration compute_infer=5; "
        "StatisticDuration compute_output=6; StatisticDuration cache_hit=7; "
        "StatisticDuration cache_miss=8"
    ),
    "InferBatchStatistics": (
        "uint64 batch_size=1; StatisticDuration compute_input=2; "
        "StatisticDuration compute_infer=3; StatisticDuration compute_output=4"
    ),
    "ModelStatisticsRequest": "string name=1; string version=2",
    "ModelStatistics": (
        "string name=1; string version=2; uint64 last_inference=3; uint64 inference_count=4; "
        "uint64 execution_count=5; InferStatistics inference_stats=6; "
        "repeated InferBatchStatistics batch_stats=7"
    ),
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats=1",
}

#: gRPC's health protocol (grpc.health.v1), which Kubernetes' probes ask; its messages are named
#: here as if they were of our package, which is not seen on the wire.
HEALTH_MESSAGES = {
    "HealthCheckRequest": "string service=1",
    "HealthCheckResponse": "int32 status=1",
}
