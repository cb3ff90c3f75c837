"""Battery cells as equivalent circuits: open-circuit voltage, resistances, and their temperature.

Textbook models (Plett, *Battery Management Systems*, vol. 1, 2015): an open-circuit voltage over
state of charge, an ohmic resistance and one RC pair, both resistances with an Arrhenius law of
temperature. The numbers are plausible for cells of 60 Ah; they are no particular maker's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from coalmine.protocol import Array


@dataclass(frozen=True, slots=True)
class Chemistry:
    """Parameters of a cell; floats, or float32 arrays [U] of them for U different cells."""

    base_v: float | Array
    linear_v: float | Array
    cubic_v: float | Array
    """Open-circuit voltage: base + linear s + cubic s^3, with an exponential at either end."""

    empty_v: float | Array
    full_v: float | Array
    empty_width: float | Array
    full_width: float | Array
    ohmic: float | Array
    """Ohm per cell at 25 degC."""

    polarisation: float | Array
    """Ohm per cell at 25 degC, of the RC pair."""

    activation_k: float | Array
    """Arrhenius activation temperature of both resistances, kelvin."""


NICKEL = Chemistry(
    base_v=3.45,
    linear_v=0.55,
    cubic_v=0.15,
    empty_v=0.45,
    full_v=0.03,
    empty_width=0.05,
    full_width=0.05,
    ohmic=1.6e-3,
    polarisation=1.0e-3,
    activation_k=2500.0,
)
#: The new chemistry: lower and flatter voltage, steeper at the end, more resistance.
IRON_PHOSPHATE = Chemistry(
    base_v=3.24,
    linear_v=0.09,
    cubic_v=0.0,
    empty_v=0.40,
    full_v=0.10,
    empty_width=0.04,
    full_width=0.04,
    ohmic=1.9e-3,
    polarisation=1.25e-3,
    activation_k=2700.0,
)
#: Time constant of the RC pair, seconds.
POLARISATION_S = 60.0


def mixed(second: Array) -> Chemistry:
    """The parameters of U cells, IRON_PHOSPHATE where `second` (bool [U]) says so, else NICKEL."""
    return Chemistry(
        **{
            field.name: np.where(
                second, getattr(IRON_PHOSPHATE, field.name), getattr(NICKEL, field.name)
            ).astype(np.float32)
            for field in fields(Chemistry)
        }
    )


def open_circuit_voltage(cells: Chemistry, soc: Array) -> Array:
    """Volts of U cells of each upload at state of charge [U, T, C]; above 1 is overcharged."""

    def wide(value: float | Array) -> Array:
        return np.asarray(value, np.float32).reshape(-1, 1, 1)

    voltage = np.square(soc)
    voltage *= wide(cells.cubic_v)
    voltage += wide(cells.linear_v)
    voltage *= soc
    voltage += wide(cells.base_v)
    voltage -= wide(cells.empty_v) * np.exp(soc * (-1 / wide(cells.empty_width)))
    voltage += wide(cells.full_v) * np.exp((soc - 1) * (1 / wide(cells.full_width)))
    return voltage


def resistance_factor(cells: Chemistry, temperature_c: Array) -> Array:
    """Resistance at a temperature, relative to 25 degC."""
    factor: Array = np.exp(
        cells.activation_k * (1 / (temperature_c + np.float32(273.15)) - np.float32(1 / 298.15))
    )
    return factor
