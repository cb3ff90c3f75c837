"""From vehicles and times to telemetry: a chunk of uploads, simulated all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.apps.ev_battery._cells import mixed
from coalmine.apps.ev_battery._circuit import Module, run_trip
from coalmine.apps.ev_battery._faults import Faults, faults_of
from coalmine.apps.ev_battery._sensors import as_windows, read_sensors, true_cell_voltages
from coalmine.apps.ev_battery._vehicles import (
    Vehicles,
    air_temperature,
    condition_at,
    has_new_chemistry,
)
from coalmine.apps.ev_battery._world import World
from coalmine.protocol import Array, Tensors
from coalmine_transformers.battery import STEP_SECONDS, STEPS, BatteryTransformer

#: Uploads simulated at once: the intermediate arrays of so many, of 8 windows, are some 100 MB.
_CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Setting:
    """What a simulation needs to know besides who uploads when."""

    vehicles: Vehicles
    world: World
    windows: int
    """Per upload."""

    missing_share: float


def simulate(
    setting: Setting, *, vehicle: Array, day: Array, rng: np.random.Generator
) -> tuple[Tensors, Array]:
    """U uploads of a vehicle [U] int64, ending at a day [U] float64.

    Returns the transformer's raw inputs, float32 [U * windows, ...], and the classes, int64 [U].
    """
    raw = {
        spec.name: np.empty((len(day) * setting.windows, *spec.shape[1:]), spec.dtype)
        for spec in BatteryTransformer.inputs
    }
    label = np.empty(len(day), np.int64)
    for start in range(0, len(day), _CHUNK):
        piece = slice(start, start + _CHUNK)
        readings, label[piece] = _chunk(setting, vehicle=vehicle[piece], day=day[piece], rng=rng)
        first = start * setting.windows
        for name, values in readings.items():
            raw[name][first : first + len(values)] = values
    return raw, label


def window_days(day: Array, windows: int) -> Array:
    """The end of every window of uploads that end at `day` [U], float64 [U * windows]."""
    before = np.arange(windows - 1, -1, -1) * (STEPS * STEP_SECONDS / 86_400)
    ends: Array = (day[:, None] - before).reshape(-1)
    return ends


def _chunk(
    setting: Setting, *, vehicle: Array, day: Array, rng: np.random.Generator
) -> tuple[Tensors, Array]:
    fleet, world = setting.vehicles, setting.world
    condition = condition_at(fleet, vehicle=vehicle, day=day, world=world)
    faults = faults_of(condition)
    air = air_temperature(fleet, vehicle=vehicle, day=day, world=world)
    new = has_new_chemistry(fleet, vehicle=vehicle, world=world)
    module = _module(fleet, vehicle=vehicle, faults=faults, air=air, new=new, rng=rng)
    trip = run_trip(module, windows=setting.windows, rng=rng)
    voltage = true_cell_voltages(
        trip, cells=module.cells, faults=faults, fleet=fleet, vehicle=vehicle
    )
    readings = read_sensors(
        trip,
        voltage=voltage,
        coolant_c=module.coolant_c,
        faults=faults,
        fleet=fleet,
        vehicle=vehicle,
        pack_gain=world.pack_voltage_gain,
        rng=rng,
    )
    return as_windows(readings, missing_share=setting.missing_share, rng=rng), condition.label


def _module(
    fleet: Vehicles,
    *,
    vehicle: Array,
    faults: Faults,
    air: Array,
    new: Array,
    rng: np.random.Generator,
) -> Module:
    count = len(vehicle)
    # The loop is heated in the cold and chilled in the heat, as far as it goes.
    coolant = air + np.float32(0.3) * (25 - air) + rng.standard_normal(count, np.float32)
    full = np.float32(0.98) + np.float32(0.008) * rng.standard_normal(count, np.float32)
    return Module(
        cells=mixed(new),
        capacity_ah=fleet.capacity_ah[vehicle] * faults.capacity,
        resistance=fleet.resistance[vehicle] * faults.resistance,
        cooling=fleet.cooling[vehicle] * faults.cooling,
        usage=fleet.usage[vehicle],
        coolant_c=coolant,
        full_soc=full + faults.overshoot,
        always_charging=faults.overcharged,
    )
