"""What each fault does to a module, from barely (severity 0) to badly (1).

A mild fault hides behind the differences between healthy vehicles, and a fault that shows under
load hides at rest: no model can be right about every window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.apps.ev_battery._vehicles import Condition
from coalmine.apps.ev_battery._world import CLASSES
from coalmine.protocol import Array
from coalmine_transformers.battery import CELLS, SENSORS


@dataclass(frozen=True, slots=True)
class Faults:
    """The effects on U modules, float32; no effect where the vehicle has another condition."""

    capacity: Array
    """[U] factor."""

    resistance: Array
    """[U] factor."""

    cooling: Array
    """[U] factor."""

    overshoot: Array
    """[U] state of charge beyond full at which the charger stops."""

    overcharged: Array
    """[U] bool."""

    leak_a: Array
    """[U, C] current through an internal short of a cell."""

    lost_soc: Array
    """[U, C] charge a cell has lost through its short."""

    hot_spot_k: Array
    """[U, S] extra temperature at the sensor nearest to the short."""

    cell_bias_v: Array
    """[U, C] error of a cell's voltage sensor."""

    temperature_bias_k: Array
    """[U, S] error of a temperature sensor."""


def faults_of(condition: Condition) -> Faults:
    """The effects of U conditions."""
    short = _effect(condition, "internal_short", 0.20, 0.80)
    uncooled = _effect(condition, "cooling_failure", 0.48, 0.42)
    biased = _effect(condition, "sensor_bias", 0.28, 0.72)
    over = _effect(condition, "overcharge", 0.18, 0.82)
    faded = _effect(condition, "capacity_fade", 0.30, 0.70)
    # One number places the fault: which of the cells, and in its decimals which sign and sensor.
    cell = np.floor(condition.place * CELLS).astype(int)
    rest = condition.place * CELLS - cell
    sign = np.where(rest < 0.5, -1, 1).astype(np.float32)
    of_temperature = (rest * 2) % 1 < 0.3
    at_cell = np.eye(CELLS, dtype=np.float32)[cell]
    at_sensor = np.eye(SENSORS, dtype=np.float32)[cell * SENSORS // CELLS]
    voltage_bias = np.where(of_temperature, 0, biased * sign)
    thermal_bias = np.where(of_temperature, biased * sign, 0)
    return Faults(
        capacity=1 - 0.30 * faded,
        resistance=1 + 0.90 * faded,
        cooling=1 - uncooled,
        overshoot=0.08 * over,
        overcharged=over > 0,
        leak_a=(16 * short)[:, None] * at_cell,
        lost_soc=(0.03 * short)[:, None] * at_cell,
        hot_spot_k=(4 * short)[:, None] * at_sensor,
        cell_bias_v=(0.060 * voltage_bias)[:, None] * at_cell,
        temperature_bias_k=(7 * thermal_bias)[:, None] * at_sensor,
    )


def _effect(condition: Condition, name: str, least: float, more: float) -> Array:
    """least + more * severity where the condition is of the class, else 0; float32 [U]."""
    strength = (least + more * condition.severity).astype(np.float32)
    return np.where(condition.label == CLASSES.index(name), strength, np.float32(0))
