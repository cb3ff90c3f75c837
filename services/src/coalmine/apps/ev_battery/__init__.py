"""Fault classification on electric-vehicle battery telemetry: the reference application.

The fleet is simulated, and everything it produces is synthetic. `Fleet` streams uploads of a
`World`, `training_history` and `reference_stream` give what a first model is trained and judged on,
and `Telemetry` carries either that or a file of real telemetry (`read_telemetry`).
"""

from coalmine.apps.ev_battery._fleet import (
    Fleet,
    FleetConfig,
    reference_stream,
    training_history,
)
from coalmine.apps.ev_battery._table import TelemetryError, read_telemetry, write_telemetry
from coalmine.apps.ev_battery._telemetry import Telemetry
from coalmine.apps.ev_battery._world import CLASSES, MIX_WORLD, SCENARIO_WORLDS, SERVICE_FILE, World

__all__ = [
    "CLASSES",
    "MIX_WORLD",
    "SCENARIO_WORLDS",
    "SERVICE_FILE",
    "Fleet",
    "FleetConfig",
    "Telemetry",
    "TelemetryError",
    "World",
    "read_telemetry",
    "reference_stream",
    "training_history",
    "write_telemetry",
]
