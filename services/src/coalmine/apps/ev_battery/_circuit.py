"""One trip of a module: currents, state of charge, polarisation and heat, stepped through time.

The states are lumped per module, and cells differ from the module by factors and offsets that are
applied afterwards: the loop over time touches vectors of uploads only, and a million windows are a
matter of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coalmine.apps.ev_battery._cells import POLARISATION_S, Chemistry, resistance_factor
from coalmine.protocol import Array
from coalmine_transformers.battery import CELLS, STEP_SECONDS, STEPS

_HEAT_CAPACITY_J_K = 6000.0
_COOLING_W_K = 8.0
_DRIVE, _CHARGE, _REST = 0, 1, 2
_MODE_SHARES = (0.60, 0.33, 0.07)
_STAY = 0.85
"""Chance that the next window continues in the mode of the last."""


@dataclass(frozen=True, slots=True)
class Module:
    """What U modules are like during an upload, faults included; float32 [U]."""

    cells: Chemistry
    capacity_ah: Array
    resistance: Array
    cooling: Array
    usage: Array
    coolant_c: Array
    full_soc: Array
    """State of charge at which charging ends: about 1, more where the charger does not stop."""

    always_charging: Array
    """[U] bool: the upload is of a charge that nears its end."""


@dataclass(frozen=True, slots=True)
class Trip:
    """States over time, float32 [U, T]; current is positive in discharge."""

    current: Array
    soc: Array
    polarisation_v: Array
    ohmic: Array
    temperature_c: Array


def run_trip(module: Module, *, windows: int, rng: np.random.Generator) -> Trip:
    """Step U modules through an upload of consecutive windows."""
    count = len(module.capacity_ah)
    steps = windows * STEPS
    wish = _wished_current(module, windows=windows, rng=rng)
    soc: Array = np.where(
        module.always_charging,
        module.full_soc - 0.05 * rng.random(count),
        0.12 + 0.85 * rng.random(count),
    ).astype(np.float32)
    temperature: Array = _first_temperature(module, load=0.2 + 0.9 * rng.random(count))
    polarisation: Array = np.zeros(count, np.float32)
    states = np.empty((5, steps, count), np.float32)
    keep = np.float32(np.exp(-STEP_SECONDS / POLARISATION_S))
    per_ah = np.float32(STEP_SECONDS / 3600) / module.capacity_ah
    conductance = np.float32(_COOLING_W_K) * module.cooling
    for step in range(steps):
        current = _limited(wish[step], soc, module.full_soc)
        factor = module.resistance * resistance_factor(module.cells, temperature)
        ohmic = module.cells.ohmic * factor
        polarisation *= keep
        polarisation += (1 - keep) * (module.cells.polarisation * factor) * current
        heat = CELLS * (ohmic * current + polarisation) * current
        states[:, step] = current, soc, polarisation, ohmic, temperature
        loss = conductance * (temperature - module.coolant_c)
        temperature = temperature + (heat - loss) * np.float32(STEP_SECONDS / _HEAT_CAPACITY_J_K)
        soc = soc - current * per_ah
    return Trip(*np.ascontiguousarray(states.transpose(0, 2, 1)))


def _wished_current(module: Module, *, windows: int, rng: np.random.Generator) -> Array:
    """What driver and charger ask for, float32 [T, U]: a mode per window, a profile per mode."""
    count = len(module.capacity_ah)
    steps = windows * STEPS
    mode = np.empty((windows, count), np.int8)
    edges = np.cumsum(_MODE_SHARES)[:-1]
    drawn = np.searchsorted(edges, rng.random((windows, count)), side="right")
    stays = rng.random((windows, count)) < _STAY
    mode[0] = drawn[0]
    for window in range(1, windows):
        mode[window] = np.where(stays[window], mode[window - 1], drawn[window])
    mode[:, module.always_charging] = _CHARGE
    profile = np.repeat(mode, STEPS, axis=0)
    # Traffic: currents of neighbouring readings are alike, and braking charges.
    noise = rng.standard_normal((steps, count), np.float32)
    traffic = np.empty_like(noise)
    traffic[0] = noise[0]
    for step in range(1, steps):
        traffic[step] = np.float32(0.5) * traffic[step - 1] + np.float32(0.866) * noise[step]
    drive = module.usage * (np.float32(26) + np.float32(34) * traffic)
    charger = (20 + 25 * rng.random(count)).astype(np.float32)
    charge = -charger * (1 + np.float32(0.15) * noise)
    rest = 2 + noise
    return np.where(profile == _DRIVE, drive, np.where(profile == _CHARGE, charge, rest))


def _limited(wish: Array, soc: Array, full: Array) -> Array:
    """The battery's manager: taper the charge to its end, and no drive from an empty battery."""
    room = np.clip((full - soc) * np.float32(30), np.float32(0.02), 1)
    left = np.clip((soc - np.float32(0.03)) * np.float32(30), 0, 1)
    return np.where(wish < 0, wish * room, wish * left)


def _first_temperature(module: Module, *, load: Array) -> Array:
    """Near the balance of an earlier trip's heat and cooling, as nobody starts from equilibrium."""
    coolant = module.coolant_c
    ohmic = module.cells.ohmic * module.resistance * resistance_factor(module.cells, coolant)
    heat = CELLS * 1.5 * ohmic * np.square(45 * module.usage) * load
    # Warming cells resist less, so the balance is below the linear one.
    rise = heat / (_COOLING_W_K * module.cooling + heat * np.float32(0.025))
    return np.asarray(coolant + rise, np.float32)
