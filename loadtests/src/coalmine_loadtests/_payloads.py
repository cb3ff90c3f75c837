"""Battery windows as request bodies, made once: the server is to be measured, not the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coalmine.apps.ev_battery import Fleet, FleetConfig
from coalmine.demo.client import grpc_request, v1_request, v2_request

__all__ = ["PROTOCOLS", "Payload", "battery_payloads"]

PROTOCOLS = ("v1", "v2", "grpc")


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: raw windows, float32 [windows, ...], and the same as a body of each protocol."""

    vehicle: str
    windows: Mapping[str, NDArray[np.float32]]
    bodies: Mapping[str, bytes]


def battery_payloads(
    count: int, *, model: str, windows: int = 8, seed: int = 0
) -> tuple[Payload, ...]:
    """Requests of `windows` windows each, of a simulated fleet; the same for the same seed."""
    telemetry = Fleet(FleetConfig(vehicles=200, seed=seed)).uploads(count, windows)
    payloads = []
    for start in range(0, count * windows, windows):
        chosen = {name: array[start : start + windows] for name, array in telemetry.raw.items()}
        bodies = {
            "v1": v1_request(chosen),
            "v2": v2_request(chosen),
            "grpc": grpc_request(chosen, model=model),
        }
        payloads.append(Payload(str(int(telemetry.vehicle[start])), chosen, bodies))
    return tuple(payloads)
