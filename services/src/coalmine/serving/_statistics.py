"""A model's statistics in the form of Triton's extension, from the numbers behind `/metrics`.

Durations are sums since the model was loaded, in nanoseconds. A request's time is split at the
moments when its batch was taken from the queue, had been run, and was answered: `queue` (reading
and checking the request is a part of it), `compute_infer` (transformer and network),
`compute_output` (writing the answers). `compute_input` is 0: there is no step of its own for it.
"""

from __future__ import annotations

from typing import Any

from coalmine.serving._metrics import ModelMetrics
from coalmine.serving._servable import Servable

__all__ = ["model_statistics"]


def model_statistics(servable: Servable) -> dict[str, Any]:
    """One entry of `model_stats`: of the version that is served, in this process.

    `inference_count` is rows, `execution_count` batches; a request is in `success` or in `fail`.
    """
    metrics = servable.metrics
    executed = sorted(metrics.executions.items())
    executions = sum(ran.count for _, ran in executed)
    return {
        "name": servable.name,
        "version": servable.version,
        "last_inference": int(metrics.last_run * 1000),
        "inference_count": sum(rows * ran.count for rows, ran in executed),
        "execution_count": executions,
        "inference_stats": {
            **_requests(metrics),
            "queue": _spent(sum(metrics.queue.counts), metrics.queue.sum),
            "compute_input": _spent(executions, 0.0),
            "compute_infer": _spent(executions, sum(ran.running for _, ran in executed)),
            "compute_output": _spent(executions, sum(ran.writing for _, ran in executed)),
            "cache_hit": _spent(0, 0.0),
            "cache_miss": _spent(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _spent(ran.count, 0.0),
                "compute_infer": _spent(ran.count, ran.running),
                "compute_output": _spent(ran.count, ran.writing),
            }
            for rows, ran in executed
        ],
    }


def _requests(metrics: ModelMetrics) -> dict[str, Any]:
    answered = sum(count for (_, status), count in metrics.requests.items() if status == 200)
    everything = sum(metrics.requests.values())
    seconds = sum(histogram.sum for histogram in metrics.durations.values())
    return {
        "success": _spent(answered, seconds - metrics.failed_seconds),
        "fail": _spent(everything - answered, metrics.failed_seconds),
    }


def _spent(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": max(0, round(seconds * 1e9))}
