"""Electric-vehicle battery telemetry: a window of sensor readings in, features of the battery out.

A window is `STEPS` readings, `STEP_SECONDS` apart, of one module of `CELLS` cells in series with
`SENSORS` temperature sensors along it: at the coolant's inlet, in the middle, at its outlet.
Current is positive in discharge. A missing reading is NaN, and gives NaN in every feature that
needs it; gradient-boosted trees take NaN for what it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coalmine.protocol import Array, Tensors, TensorSpec
from coalmine_transformers._base import Transformer

__all__ = [
    "CELLS",
    "FEATURES",
    "SENSORS",
    "STEPS",
    "STEP_SECONDS",
    "BatteryTransformer",
    "Feature",
]

STEPS = 16
STEP_SECONDS = 30.0
CELLS = 6
SENSORS = 3


class Feature(NamedTuple):
    """A column of the transformer's output."""

    name: str
    unit: str


FEATURES = (
    Feature("soc", "1"),
    Feature("voltage_mean", "V"),
    Feature("voltage_min", "V"),
    Feature("voltage_max", "V"),
    Feature("voltage_slope", "mV/min"),
    Feature("voltage_spread", "mV"),
    Feature("voltage_spread_slope", "mV/min"),
    Feature("weakest_cell_deviation", "mV"),
    Feature("strongest_cell_deviation", "mV"),
    Feature("current_mean", "A"),
    Feature("current_rms", "A"),
    Feature("resistance", "mOhm"),
    Feature("resistance_25c", "mOhm"),
    Feature("resistance_spread", "mOhm"),
    Feature("temperature_mean", "degC"),
    Feature("temperature_max", "degC"),
    Feature("temperature_spread", "K"),
    Feature("temperature_slope", "K/min"),
    Feature("coolant_temperature", "degC"),
    Feature("temperature_rise", "K"),
    Feature("joule_heat", "W"),
    Feature("pack_voltage_residual", "V"),
    Feature("temperature_residual", "K"),
)

_MINUTES = (np.arange(STEPS, dtype=np.float32) - (STEPS - 1) / 2) * np.float32(STEP_SECONDS / 60)
#: Weights of the least-squares slope over a window, per minute.
_SLOPE = _MINUTES / np.sum(_MINUTES**2)
#: Activation temperature of the ohmic resistance of a nickel cell, in kelvin.
_ACTIVATION_K = 2500.0
#: Variance of the current's steps (A^2) below which a window says little about resistance: the
#: estimate shrinks to zero there, instead of dividing noise by nothing.
_LITTLE_EXCITATION = 1.0


class BatteryTransformer(Transformer):
    """Windows of raw readings to `features`: float32 [N, 23], in the order of FEATURES."""

    inputs = (
        TensorSpec("cell_voltage", "FP32", (-1, STEPS, CELLS)),
        TensorSpec("temperature", "FP32", (-1, STEPS, SENSORS)),
        TensorSpec("current", "FP32", (-1, STEPS)),
        TensorSpec("pack_voltage", "FP32", (-1, STEPS)),
        TensorSpec("coolant_temperature", "FP32", (-1, STEPS)),
        TensorSpec("soc", "FP32", (-1,)),
    )
    model_inputs = (TensorSpec("features", "FP32", (-1, len(FEATURES))),)

    def preprocess(self, tensors: Tensors) -> Tensors:
        """The features of every window: V, A, degC in, and `soc` as a fraction of one."""
        current = tensors["current"]
        columns = {
            "soc": tensors["soc"],
            "current_mean": current.mean(axis=1),
            "current_rms": np.sqrt(np.square(current).mean(axis=1)),
            **_voltages(tensors["cell_voltage"], tensors["pack_voltage"]),
            **_temperatures(tensors["temperature"], tensors["coolant_temperature"]),
        }
        columns |= _resistances(tensors["cell_voltage"], current, columns["temperature_mean"])
        ohm = np.maximum(columns["resistance"], 0) / 1e3
        columns["joule_heat"] = CELLS * ohm * np.square(columns["current_rms"])
        features = np.empty((len(current), len(FEATURES)), np.float32)
        for index, feature in enumerate(FEATURES):
            features[:, index] = columns[feature.name]
        return {"features": features}


def _voltages(cell: Array, pack: Array) -> Tensors:
    mean = cell.mean(axis=2)
    lowest = cell.min(axis=2)
    highest = cell.max(axis=2)
    spread = highest - lowest
    deviation = (cell - mean[:, :, None]).mean(axis=1)
    return {
        "voltage_mean": mean.mean(axis=1),
        "voltage_min": lowest.min(axis=1),
        "voltage_max": highest.max(axis=1),
        "voltage_slope": 1e3 * _slope(mean),
        "voltage_spread": 1e3 * spread.mean(axis=1),
        "voltage_spread_slope": 1e3 * _slope(spread),
        "weakest_cell_deviation": 1e3 * deviation.min(axis=1),
        "strongest_cell_deviation": 1e3 * deviation.max(axis=1),
        "pack_voltage_residual": (pack - cell.sum(axis=2)).mean(axis=1),
    }


def _temperatures(sensors: Array, coolant: Array) -> Tensors:
    along = sensors.mean(axis=1)
    mean = sensors.mean(axis=2)
    average = mean.mean(axis=1)
    coolant_average = coolant.mean(axis=1)
    return {
        "temperature_mean": average,
        "temperature_max": sensors.max(axis=(1, 2)),
        "temperature_spread": along.max(axis=1) - along.min(axis=1),
        "temperature_slope": _slope(mean),
        "coolant_temperature": coolant_average,
        "temperature_rise": average - coolant_average,
        # The coolant warms evenly along the module, so the middle lies halfway between the ends.
        "temperature_residual": along[:, 1] - (along[:, 0] + along[:, 2]) / 2,
    }


def _slope(series: Array) -> Array:
    # Not `series @ _SLOPE`: BLAS adds in an order that depends on how many rows there are, and a
    # window must have the same features alone as in any batch.
    slope: Array = (series * _SLOPE).sum(axis=1)
    return slope


def _resistances(cell: Array, current: Array, temperature: Array) -> Tensors:
    """Ohmic resistance from the steps of voltage against the steps of current, per cell."""
    step_current = np.diff(current, axis=1)
    step_voltage = np.diff(cell, axis=1)
    excitation = np.square(step_current).mean(axis=1) + _LITTLE_EXCITATION
    product = (step_current[:, None, :] @ step_voltage)[:, 0] / (STEPS - 1)
    per_cell = -1e3 * product / excitation[:, None]
    mean = per_cell.mean(axis=1)
    warm = np.exp(_ACTIVATION_K * (1 / 298.15 - 1 / (temperature + 273.15)))
    return {
        "resistance": mean,
        "resistance_25c": mean * warm,
        "resistance_spread": per_cell.max(axis=1) - per_cell.min(axis=1),
    }
