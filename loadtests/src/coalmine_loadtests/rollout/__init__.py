"""Rollouts under load with real processes: the controller is killed, weights change, all is seen.

The gateway is the real Envoy, the controller the real one in a process of its own; the model
servers are small, since the models do not matter. `run_chaos` and `run_weights` are what `coalmine
bench chaos-rollout` and `coalmine bench weights` call.
"""

from coalmine_loadtests.rollout._chaos import ChaosOptions, ChaosReport, Kill, run_chaos
from coalmine_loadtests.rollout._weights import WeightsOptions, WeightsReport, run_weights

__all__ = [
    "ChaosOptions",
    "ChaosReport",
    "Kill",
    "WeightsOptions",
    "WeightsReport",
    "run_chaos",
    "run_weights",
]
