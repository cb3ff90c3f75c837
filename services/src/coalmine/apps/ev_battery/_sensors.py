"""What the sensors of a module report of a trip: the transformer's raw inputs."""

from __future__ import annotations

import numpy as np

from coalmine.apps.ev_battery._cells import Chemistry, open_circuit_voltage
from coalmine.apps.ev_battery._circuit import Trip
from coalmine.apps.ev_battery._faults import Faults
from coalmine.apps.ev_battery._vehicles import Vehicles
from coalmine.protocol import Array, Tensors
from coalmine_transformers.battery import STEPS

#: The whole path of a short's current, against the ohmic resistance alone.
_SLOW_PATH = 1.6
#: Temperature of the coolant's outlet against the middle, as a share of the rise over the coolant.
_GRADIENT = 0.15


def true_cell_voltages(
    trip: Trip, *, cells: Chemistry, faults: Faults, fleet: Vehicles, vehicle: Array
) -> Array:
    """Volts, float32 [U, T, C]."""
    offset = fleet.cell_soc[vehicle] - faults.lost_soc
    voltage = open_circuit_voltage(cells, trip.soc[:, :, None] + offset[:, None, :])
    drop = trip.current * trip.ohmic + trip.polarisation_v
    voltage -= drop[:, :, None] * fleet.cell_resistance[vehicle][:, None, :]
    leak = (np.float32(_SLOW_PATH) * faults.leak_a)[:, None, :] * trip.ohmic[:, :, None]
    voltage -= leak
    return voltage


def read_sensors(
    trip: Trip,
    *,
    voltage: Array,
    coolant_c: Array,
    faults: Faults,
    fleet: Vehicles,
    vehicle: Array,
    pack_gain: float,
    rng: np.random.Generator,
) -> Tensors:
    """Noisy readings of every sensor, float32 [U, T, ...]; `soc` too is still one per reading."""

    def noise(shape: tuple[int, ...], sigma: float) -> Array:
        drawn = rng.standard_normal(shape, np.float32)
        drawn *= np.float32(sigma)
        return drawn

    when = trip.current.shape
    pack = np.float32(pack_gain) * voltage.sum(axis=2) + noise(when, 0.006)
    pack += fleet.pack_sensor_v[vehicle][:, None]
    cell = noise(voltage.shape, 0.0015)
    cell += voltage
    cell += (fleet.cell_sensor_v[vehicle] + faults.cell_bias_v)[:, None, :]
    rise = trip.temperature_c - coolant_c[:, None]
    along = np.array([-_GRADIENT, 0, _GRADIENT], np.float32)
    temperature = trip.temperature_c[:, :, None] + rise[:, :, None] * along
    temperature += noise(temperature.shape, 0.15)
    bias = fleet.temperature_sensor_k[vehicle] + faults.hot_spot_k + faults.temperature_bias_k
    temperature += bias[:, None, :]
    return {
        "cell_voltage": cell,
        "temperature": temperature,
        "current": trip.current + noise(when, 0.4),
        "pack_voltage": pack,
        "coolant_temperature": coolant_c[:, None] + noise(when, 0.2),
        "soc": np.clip(trip.soc + fleet.soc_error[vehicle][:, None], 0, 1),
    }


def as_windows(readings: Tensors, *, missing_share: float, rng: np.random.Generator) -> Tensors:
    """Cut trips into windows, float32 [U * windows, STEPS, ...], and lose some readings."""
    windows = {
        name: values.reshape(-1, STEPS, *values.shape[2:]) for name, values in readings.items()
    }
    windows["soc"] = np.ascontiguousarray(windows["soc"][:, -1])
    for values in windows.values():
        lost = np.flatnonzero(rng.random(len(values)) < missing_share)
        if values.ndim == 3:
            values[lost, :, rng.integers(values.shape[2], size=len(lost))] = np.nan
        else:
            values[lost] = np.nan
    return windows
