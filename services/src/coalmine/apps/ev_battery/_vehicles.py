"""The vehicles: how they differ, where they live, and which faults they have when.

Everything here is a function of the seed, the vehicle and the time, not of the order of calls: the
training history, the recent reference and the live stream are of the same vehicles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.apps.ev_battery._world import World
from coalmine.protocol import Array
from coalmine_transformers.battery import CELLS, SENSORS

#: A vehicle's condition lasts this long, then it is drawn anew (repaired, or another fault).
EPISODE_DAYS = 12.0
#: The live stream begins in early May of a temperate climate: mild, and neither warm nor cold.
_DAY_OF_YEAR_0 = 125.0
_WARMEST_DAY_OF_YEAR = 202.0


@dataclass(frozen=True, slots=True)
class Vehicles:
    """One row per vehicle, float32."""

    seed: int
    capacity_ah: Array
    resistance: Array
    """Factor on the chemistry's resistances: production spread and age."""

    cooling: Array
    """Factor on the cooling power."""

    usage: Array
    """Factor on the currents while driving."""

    climate_c: Array
    """Yearly mean of the air temperature, against the fleet's."""

    longitude: Array
    """Local time against the fleet's clock, days: a fleet all around the globe sees every hour."""

    renewal: Array
    """Uniform on 0 to 1: vehicles below a world's chemistry_share have the new chemistry."""

    cell_soc: Array
    """[V, C]: imbalance of the cells' states of charge."""

    cell_resistance: Array
    """[V, C]: factor."""

    cell_sensor_v: Array
    pack_sensor_v: Array
    temperature_sensor_k: Array
    soc_error: Array


def build_vehicles(count: int, seed: int) -> Vehicles:
    """Draw the fleet."""
    rng = np.random.default_rng([seed, 0])
    age = rng.random(count)

    def normal(sigma: float, *width: int) -> Array:
        return (sigma * rng.standard_normal((count, *width))).astype(np.float32)

    return Vehicles(
        seed=seed,
        capacity_ah=((60 + normal(1.5)) * (1 - 0.06 * age)).astype(np.float32),
        resistance=(np.exp(normal(0.05)) * (1 + 0.12 * age)).astype(np.float32),
        cooling=np.exp(normal(0.10)),
        usage=np.exp(normal(0.20)),
        climate_c=normal(4.0),
        longitude=rng.random(count).astype(np.float32),
        renewal=rng.random(count).astype(np.float32),
        cell_soc=normal(0.003, CELLS),
        cell_resistance=1 + normal(0.03, CELLS),
        cell_sensor_v=normal(0.0015, CELLS),
        pack_sensor_v=normal(0.006),
        temperature_sensor_k=normal(0.20, SENSORS),
        soc_error=normal(0.01),
    )


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of the vehicle of each of U uploads."""

    label: Array
    """[U] int64: index into CLASSES."""

    severity: Array
    """[U] float32: 0 (barely a fault) to 1."""

    place: Array
    """[U] float32 on 0 to 1: which cell or sensor is affected, and in which direction."""


def condition_at(vehicles: Vehicles, *, vehicle: Array, day: Array, world: World) -> Condition:
    """What is wrong with each vehicle at the time, nothing for most."""
    phase = _uniform(vehicles.seed, 1, vehicle, 0)
    episode = np.floor(day / EPISODE_DAYS + phase).astype(np.int64)
    edges = np.cumsum(world.class_shares())[:-1]
    label = np.searchsorted(edges, _uniform(vehicles.seed, 2, vehicle, episode), side="right")
    return Condition(
        label=label.astype(np.int64),
        severity=_uniform(vehicles.seed, 3, vehicle, episode).astype(np.float32),
        place=_uniform(vehicles.seed, 4, vehicle, episode).astype(np.float32),
    )


def air_temperature(vehicles: Vehicles, *, vehicle: Array, day: Array, world: World) -> Array:
    """Outside air at each vehicle, degC, float32 [U]: climate, season, hour and weather."""
    season = np.cos(2 * np.pi * (day + _DAY_OF_YEAR_0 - _WARMEST_DAY_OF_YEAR) / 365.25)
    local = day + vehicles.longitude[vehicle]
    hour = np.cos(2 * np.pi * (local - 15 / 24))
    date = np.floor(local).astype(np.int64)
    # Sum of four uniforms: near enough to a normal, and bounded.
    weather = np.sum([_uniform(vehicles.seed, salt, vehicle, date) for salt in range(5, 9)], axis=0)
    celsius = 10 + vehicles.climate_c[vehicle] + 15 * season + 4 * hour + 5 * (weather - 2)
    return np.asarray(celsius + world.ambient_offset_c, np.float32)


def has_new_chemistry(vehicles: Vehicles, *, vehicle: Array, world: World) -> Array:
    """Bool [U]."""
    return np.asarray(vehicles.renewal[vehicle] < world.chemistry_share)


def _uniform(seed: int, salt: int, vehicle: Array, when: Array | int) -> Array:
    """Uniform on 0 to 1 from a key, the same in whatever order it is asked for (SplitMix64)."""
    mixed = vehicle.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.asarray(when).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    mixed += np.uint64((seed * 1_000_003 + salt) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
